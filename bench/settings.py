"""Options of `python -m bench`, each with its help and default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from reference.cli.options import at_least, shown

DOCS = Path(__file__).parents[1] / "docs"


def check_at_least(options: Any, **least: int) -> None:
    """Raise a ValueError for the first option below its least value; None is allowed."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None:
            at_least(low, name, value)


def check_seed(seed: int, bits: int) -> None:
    """Raise a ValueError for a seed of too many bits."""
    if seed >= 2**bits:
        raise ValueError(f"--seed {seed}: give a number below 2^{bits} = {2**bits}")


def check_seconds(seconds: float) -> None:
    """Raise a ValueError for negative, infinite or NaN seconds."""
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"--seconds {seconds}: give a number of at least 0")


def check_file(file: Path | None, option: str = "--json") -> None:
    """Raise a ValueError for a result file that is a folder, or in a folder that is missing or cannot be written."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ValueError(f"{option} {file}: give the name of a file in an existing folder")
    if file is not None:
        check_writable(file, option)


def check_writable(path: Path, option: str) -> None:
    """Raise a ValueError if the folder of a file cannot be written."""
    if not os.access(path.absolute().parent, os.W_OK):
        raise ValueError(f"{option} {path}: its folder cannot be written: give a file in another folder")


# kw_only: a command's required option may follow these, which have defaults
@dataclass(frozen=True, kw_only=True)
class Device:
    """The option that names a device."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one"""


@dataclass(frozen=True, kw_only=True)
class Threads:
    """The option that limits the CPU threads."""

    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads"""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The option that seeds weights and tokens."""

    seed: int = 0
    """Random seed of weights and tokens"""


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """The option that names the file of the result."""

    json: Annotated[Path | None, shown("FILE", "none")] = None
    """Write all measurements to this file"""


@dataclass(frozen=True, kw_only=True)
class UserCode(ResultFile, Threads):
    """The options of every test of a user's code."""

    html: Annotated[Path | None, shown("FILE", "none")] = None
    """Write the report as a page to this file"""
    traceback: Annotated[bool, FlagCreatePairsOff] = False
    """Show the whole traceback of an exception in your code"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        check_at_least(self, threads=1)
        check_file(self.json)
        check_file(self.html, "--html")


@dataclass(frozen=True)
class Compare(ResultFile, Seed, Threads, Device):
    """Compare models: prove that they are the same function, then time them in turn.

    Without options: gpt2 (124 million parameters), one sequence of 128 tokens, three minutes on two CPU cores.

    To test a GPT of your own: --candidate FILE.py:build; its options: --candidate x --help.
    To test a training step of your own: --step FILE.py:build_step; a text generator: --generate FILE.py:generate;
    a data loader: --batches FILE.py:build_batches; a validation loss: --evaluate FILE.py:evaluate.
    To write a build function for a class of yours: --template FILE.py:CLASS; its options: --template x --help.
    To compare two checkpoints: --weights A --against B; its options: --weights x --help.
    """

    size: str = "gpt2"
    """Model size: gpt2, gpt2-medium, gpt2-large, gpt2-xl; smaller ones: tiny, small, counting, characters, mini"""
    bias: bool = True
    """Biases, as in the published GPT-2; x-transformers is the same function only without them"""
    batch: int = 1
    """Sequences per batch (B)"""
    time: Annotated[int | None, shown("INT", "128, or the size's block")] = None
    """Tokens per sequence (T)"""
    precision: str = "float32"
    """float64, float32, or bfloat16 (torch.autocast, float32 weights). With float32, these contenders still compute
    in bfloat16 and must pass the rounding check: full, bf16, huggingface-bf16; optimized and huggingface-best on a
    device with fast bfloat16"""
    contenders: Annotated[tuple[str, ...], shown("NAME", "reference, huggingface-sdpa, optimized")] = ()
    """Models to compare: reference; huggingface-eager, -sdpa, -bf16, -compiled, -best (sdpa, compiled, bf16 if fast);
    x-transformers and keras-hub, if installed; optimized (the rungs that pay on this device), plain (no rungs), full
    (all rungs), full-float32 (all but bf16), or a rung's name (plain with that rung); all. Ratios are relative to the
    first contender that passes its proof."""
    seconds: float = 30.0
    """Seconds of timing, about: a quarter for forward passes, half for training steps, a quarter for generation; at
    least 5 rounds of the first two and 3 of the last"""
    rounds: Annotated[int | None, shown("INT", "what fits in --seconds")] = None
    """Timing rounds per contender (minimum 3); overrides --seconds"""
    new_tokens: int = 16
    """Tokens to generate after a prompt of 32 tokens, or fewer if the block is shorter; 0 skips generation"""
    steps: Annotated[int | None, shown("INT", "2 to 20, by the size")] = None
    """AdamW steps in the proof; 0 skips them"""
    json: Annotated[Path | None, shown("FILE", "runs/compare/DATE-TIME.json")] = None
    """Write all measurements to this file"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        check_at_least(self, threads=1, rounds=3, steps=0, seed=0, new_tokens=0)
        check_seed(self.seed, bits=63)
        check_seconds(self.seconds)
        if self.json is not None and self.json.is_dir():
            raise ValueError(f"--json {self.json}: is a folder: give the name of a file")


@dataclass(frozen=True)
class CompareCandidate(UserCode, Seed, Device):
    """Test a GPT of your own: is it the same function as the reference? If not: where does it first differ, and why?

    Exit status: 0 the same, 1 different, 2 not testable (one line says why).
    """

    candidate: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """Function build(config) that returns a torch.nn.Module; also MODULE:FUNCTION. The config has block_size,
    vocab_size, n_layer, n_head, n_embd, dropout and bias. The module maps ids (B, T) to logits (B, T, V), to (logits,
    loss), or to an object with .logits"""
    layout: str = "auto"
    """Names and shapes of its weights: canonical (reference/gpt.py), hf (transformers), nanogpt, a function from our
    state dict to yours, FILE.py:FUNCTION, or auto: guessed from its tensors and verified by the numbers"""
    against: Annotated[str | None, shown("FILE.py:FUNCTION", "reference/gpt.py")] = None
    """Compare with this GPT: another build function, or transformers. Both are also compared with the reference"""
    against_layout: str = "auto"
    """Layout of --against"""
    size: str = "test"
    """Model size: test (3 layers, n_embd 48), or a size of compare without --candidate: tiny, mini, gpt2, ..."""
    shape: Annotated[str, shown("NAME=N,...", "that of --size")] = ""
    """Your own shape, in place of the size's: any of n_layer, n_head, n_embd, block_size, vocab_size"""
    bias: bool = True
    """Biases in the config, as in the published GPT-2"""
    batch: int = 3
    """Sequences per batch (B)"""
    time: Annotated[
        int | None, shown("INT", "three quarters of the size's block, at most 96, or 48 above 5 million parameters")
    ] = None
    """Tokens per sequence (T)"""
    steps: Annotated[int | None, shown("INT", "20, fewer at large sizes")] = None
    """AdamW steps to compare; 0 skips them"""
    precision: str = "auto"
    """float64, float32, or auto: float64, or float32 if the candidate does not compute in float64. Or judge only its
    rounding, against plain code in the same precision: bfloat16, float16, or as-built, its own"""
    initial_weights: Annotated[bool, FlagCreatePairsOff] = False
    """Fail if initial weights differ from GPT-2's, for a model to be trained from scratch; otherwise note it"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        if self.html is not None and self.against is not None:
            raise ValueError("--html with --against: the page is of one candidate; test each by itself, or give --json")
        if self.initial_weights and self.against is not None:
            raise ValueError("--initial-weights with --against: it is about one candidate; test each by itself")
        super().check()
        check_at_least(self, batch=1, steps=0, seed=0)
        check_seed(self.seed, bits=62)
        known = ("auto", "float64", "float32", "bfloat16", "float16", "as-built")
        if self.precision not in known:
            raise ValueError(f"unknown precision {self.precision!r}: give one of {', '.join(known)}")


@dataclass(frozen=True)
class CompareStep(UserCode, Seed):
    """Test a training step of your own: optimizer, groups, clipping, schedule, accumulation. Is it the reference's?

    Exit status: 0 the same, 1 different, 2 not testable (one line says why).
    """

    step: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """Function build_step(model, hyperparameters) that returns a function of a list of micro-batches (ids, targets),
    each (B, T), which trains the model; or of ids and targets, without accumulation. model(ids, targets) returns
    (logits, loss). hyperparameters has learning_rate, floor, warmup, total, weight_decay, betas, eps, clip"""
    unequal: bool = True
    """Try micro-batches of unequal size too, where the mean of their means is not the mean over all targets"""
    ranks: int = 1
    """Ranks that run the step in one gloo group, which is initialised before, each on its own micro-batches; the update
    must be that of one process with all of them"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        super().check()
        check_at_least(self, ranks=1, seed=0)
        check_seed(self.seed, bits=52)


@dataclass(frozen=True)
class CompareGenerate(UserCode, Seed):
    """Test a text generator of your own: cropping, cache, padding, temperature, top-k, top-p. Is it the reference's?

    Exit status: 0 the same, 1 different, 2 not testable (one line says why).
    """

    generate: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """Function generate(model, ids, max_new_tokens, temperature, top_k, top_p, generator), or of the first three and
    others by their usual names: do_sample, use_cache, attention_mask, eos_token_id, ... (docs/generation.md). It
    returns ids (B, T + max_new_tokens). model(ids) returns logits (B, T, V); with use_cache=True and past_key_values
    it is called as transformers' GPT-2"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        super().check()
        check_at_least(self, seed=0)
        check_seed(self.seed, bits=62)


@dataclass(frozen=True)
class CompareBatches(UserCode):
    """Test a data loader of your own: are its targets the next tokens, each once per epoch, whatever the rank or start?

    Exit status: 0 nothing is wrong, 1 something is, 2 not testable (one line says why).
    """

    batches: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """Function build_batches(tokens, batch_size, block_size) that returns an iterator of (inputs, targets), (B, T)
    each, or a function without arguments that returns the next. If it has them, seed, rank, world_size and start (the
    number of batches already taken) are passed by name and tested too"""


@dataclass(frozen=True)
class CompareEvaluation(UserCode, Seed):
    """Test a validation loss of your own: is it the mean over all targets? Or a choice between completions.

    Exit status: 0 the same, 1 different, 2 not testable (one line says why).
    """

    evaluate: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """Function evaluate(model, batches) that returns the loss, a number. batches is a list of (ids, targets), (B, T)
    each, of unequal sizes; targets of -1 are to be ignored. model(ids, targets) returns (logits, loss). Or a function
    of tokens, mask and logits (or model) that returns the most likely row of four completions, as in HellaSwag"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        super().check()
        check_at_least(self, seed=0)
        check_seed(self.seed, bits=52)


@dataclass(frozen=True)
class Template:
    """Write a wrapper with which a module of yours, with its own constructor and output, can be tested.

    It matches the constructor's arguments with our config by their names, builds and calls the module at a small size,
    and marks the lines to check. The layout of its weights needs no line: compare --candidate guesses it.
    """

    template: Annotated[str, arg(metavar="FILE.py:CLASS")]
    """The torch.nn.Module to wrap; also MODULE:CLASS"""
    out: Annotated[Path | None, shown("FILE.py", "standard output")] = None
    """Write the wrapper to this file"""

    def check(self) -> None:
        """Raise a ValueError, one line, for an invalid value."""
        if self.out is not None and (self.out.exists() or not self.out.absolute().parent.is_dir()):
            raise ValueError(f"--out {self.out}: give the name of a new file in an existing folder")
        if self.out is not None:
            check_writable(self.out, "--out")


@dataclass(frozen=True)
class CompareWeights(ResultFile, Threads):
    """Compare two checkpoints: which tensors differ, by how much, what do they look like; then the logits on real text.

    Each is a file of torch.save (a state dict, or nanoGPT's ckpt.pt), a .safetensors file, a Hugging Face folder, or a
    checkpoint or run of this project, in any layout. Nothing in them is executed.

    Exit status: 0 the same, 1 different, 2 not judged (one line says why).
    """

    weights: Annotated[Path, arg(metavar="FILE|FOLDER")]
    """Checkpoint A"""
    against: Annotated[Path, arg(metavar="FILE|FOLDER")]
    """Checkpoint B; errors are relative to it"""
    heads: Annotated[int | None, shown("INT", "what the files say")] = None
    """Number of attention heads, for files that do not say it"""

    def check(self) -> None:
        """Raise a ValueError, one line, for an invalid value."""
        check_at_least(self, heads=1, threads=1)
        check_file(self.json)


@dataclass(frozen=True)
class MeasureRoofline(ResultFile, Threads, Device):
    """Measure a device: FLOP/s in the models' shapes, memory bandwidth, and the least time of each task."""

    workloads: Annotated[tuple[str, ...], shown("NAME", "mini, gpt2-128, gpt2")] = ()
    """Workloads whose shapes are measured: smoke, mini-64, mini, gpt2-128 (batch 1 x time 128), gpt2-512 (4 x 512),
    gpt2 and gpt2-xl (1 x 1024)"""
    seconds: float = 0.2
    """Seconds per shape, about; at least three samples"""
    resume: Annotated[Path | None, shown("FILE.partial", "none")] = None
    """Continue a stopped measurement from its .partial file, with its options"""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MeasureRoofline:
        """The options of a stopped run. Raises ValueError or TypeError for invalid values."""
        json, workloads = values["json"], tuple(values["workloads"])
        return cls(**{**values, "json": None if json is None else Path(json), "workloads": workloads})

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that is invalid on every machine."""
        check_at_least(self, threads=1)
        check_seconds(self.seconds)
        check_file(self.json)


@dataclass(frozen=True)
class Diff:
    """Show what changed between two result files, of nox -s bench or of compare --json: new, gone, faster, slower."""

    before: Annotated[Positional[Path], arg(metavar="A.json")]
    """The older file"""
    after: Annotated[Positional[Path], arg(metavar="B.json")]
    """The newer file"""
    across_machines: bool = False
    """Compare files of different machines: a difference is then of the machine as well as of the code"""
    threshold: float = 0.05
    """Smallest change of a rate to report, as a fraction: 0.05 for 5 %"""

    def check(self) -> None:
        """Raise a ValueError, one line, for an invalid value."""
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"--threshold {self.threshold}: give a fraction from 0 to below 1")


@dataclass(frozen=True)
class Report:
    """Turn result files, of nox -s bench or of compare --json, into one HTML page, pictures and Markdown tables.

    The page needs no network.
    """

    files: Annotated[Positional[tuple[Path, ...]], shown("[FILE.json|FOLDER ...]", "bench/results")] = ()
    """Result files, or folders of them"""
    out: Path = Path("build", "report")
    """Output folder: index.html, and for each result a folder with pictures and tables.md"""
    page: bool = True
    """Write index.html"""
    parity: Annotated[Path, shown("FILE.json", "docs/parity.json")] = DOCS / "parity.json"
    """Errors and budgets, as the parity tests write them"""
    bugs: Annotated[Path, shown("FILE.json", "docs/bugs.json")] = DOCS / "bugs.json"
    """Planted bugs, as python -m tests.bugs.measure writes them"""

    def check(self) -> None:
        """Raise a ValueError, one line, for an invalid value."""
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out}: is a file: give the name of a folder")
