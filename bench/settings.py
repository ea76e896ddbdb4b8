"""What can be said on the command line of `python -m bench`: every option with its help and default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

DOCS = Path(__file__).parents[1] / "docs"


def shown(metavar: str, default: str) -> Any:
    """How --help shows an option whose default is worked out later: as METAVAR, with the rule in words."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Compare:
    """Put models side by side: prove them equal first, then time them in turn.

    With no options: GPT-2 at its real size on one short sequence, in less than three minutes on two CPU cores.

    A GPT of your own is compared by --candidate FILE.py:build, which has options of its own: add --help.
    """

    size: str = "gpt2"
    """Shape of the model: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or small: tiny, small, counting, characters, mini"""
    bias: bool = True
    """A GPT-2 with biases, as published; without, x-transformers is the same function too"""
    batch: int = 1
    """Sequences in a batch"""
    time: Annotated[int | None, shown("INT", "128, or the size's block")] = None
    """Tokens of each sequence"""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one"""
    precision: str = "float32"
    """float64, float32, or bfloat16: torch's autocast over float32 weights. Where float32 is asked for, full, bf16
    and huggingface-bf16 compute in bfloat16 all the same, optimized and huggingface-best where the device is fast at
    it, and prove their rounding besides"""
    contenders: Annotated[
        tuple[str, ...], shown("NAME", "reference, huggingface-eager, huggingface-sdpa, optimized")
    ] = ()
    """Who takes part: reference; huggingface-eager, -sdpa, -bf16, -compiled, or -best (sdpa, compiled, bf16 where it
    pays); x-transformers and keras-hub, if installed; optimized (with the rungs that pay on this device), plain, full
    (with all), a rung by its name (plain with that rung), full-float32 (full without bf16); all for everybody. Ratios
    are against the first that is proven."""
    seconds: float = 30.0
    """About how long to time: a quarter of it forward passes, half training steps, a quarter generation; at least 5
    rounds of the first two, 3 of the last"""
    rounds: Annotated[int | None, shown("INT", "what fits in --seconds")] = None
    """Time each contender so often instead, at least 3 times"""
    new_tokens: int = 16
    """Tokens to generate, one after another, after a prompt of 32 or what the block has room for; 0 leaves it out"""
    steps: Annotated[int | None, shown("INT", "2 to 20, by the size")] = None
    """AdamW steps to take in the proof; 0 leaves them out"""
    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads"""
    seed: int = 0
    """Decides weights and tokens"""
    json: Annotated[Path | None, shown("FILE", "runs/compare/DATE-TIME.json")] = None
    """Where to write everything that was measured"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that cannot be on any machine."""
        for name, least in (("threads", 1), ("rounds", 3), ("steps", 0), ("seed", 0), ("new_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give a whole number of at least {least}")
        if self.seed >= 2**63:
            raise ValueError(f"--seed {self.seed}: give a number below 2^63 = {2**63}")
        if not 0.0 <= self.seconds < float("inf"):
            raise ValueError(f"--seconds {self.seconds}: give a number of at least 0")
        if self.json is not None and self.json.is_dir():
            raise ValueError(f"--json {self.json}: is a folder; give the name of a file")


@dataclass(frozen=True)
class CompareCandidate:
    """Hold a GPT of your own against the readable one: is it the same function, and if not, where does it first differ?

    It exits with 0 if it is the same, with 1 if it differs, with 2 if that cannot be judged.
    """

    candidate: Annotated[str, arg(metavar="FILE.py:FUNCTION")]
    """The function that makes the model, in a file or as MODULE:FUNCTION: from a config with the fields of GPTConfig
    (block_size, vocab_size, n_layer, n_head, n_embd, dropout, bias), a torch module whose call with ids (B, T) gives
    logits (B, T, V), (logits, loss), or an object with .logits"""
    layout: str = "canonical"
    """How its weights are named and laid out: canonical (reference/gpt.py), hf (transformers), nanogpt, or
    FILE.py:FUNCTION: a function from our state dict to yours"""
    size: str = "smoke"
    """Shape of the model: smoke (3 layers, width 48), or one of compare's without a candidate: tiny, mini, gpt2, ..."""
    bias: bool = True
    """Whether the config says that there are biases, as GPT-2 has them"""
    batch: int = 3
    """Sequences in a batch"""
    time: Annotated[int | None, shown("INT", "three quarters of the size's block, at most 96")] = None
    """Tokens of each sequence"""
    steps: Annotated[int | None, shown("INT", "20, fewer at large sizes")] = None
    """AdamW steps to compare; 0 leaves them out"""
    device: str = "auto"
    """Where the candidate computes: auto, cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one"""
    precision: str = "auto"
    """float64, float32, or auto: float64, or float32 for a model that cannot compute in it"""
    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads"""
    seed: int = 0
    """Decides weights and tokens"""
    json: Annotated[Path | None, shown("FILE", "none")] = None
    """Where to write everything that was found"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that cannot be on any machine."""
        for name, least in (("batch", 1), ("steps", 0), ("threads", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} {value}: give a whole number of at least {least}")
        if self.seed >= 2**62:
            raise ValueError(f"--seed {self.seed}: give a number below 2^62 = {2**62}")
        if self.precision not in ("auto", "float64", "float32"):
            raise ValueError(f"unknown precision {self.precision!r}: give one of auto, float64, float32")
        if self.json is not None and (self.json.is_dir() or not self.json.absolute().parent.is_dir()):
            raise ValueError(f"--json {self.json}: give the name of a file in a folder that is there")


@dataclass(frozen=True)
class MeasureRoofline:
    """Measure a device: matrix products of a model's own shapes, bytes moved, and what these allow at best."""

    device: str = "auto"
    """What to measure: auto, cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one"""
    workloads: Annotated[tuple[str, ...], shown("NAME", "mini, gpt2-128, gpt2")] = ()
    """Whose shapes: smoke, mini-64, mini, gpt2-128 (batch 1 x time 128), gpt2-512 (4 x 512), gpt2 and
    gpt2-xl (1 x 1024)"""
    seconds: float = 0.2
    """To measure each shape in, about; three times at least"""
    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads"""
    json: Annotated[Path | None, shown("FILE", "none")] = None
    """Where to write everything that was measured"""
    resume: Annotated[Path | None, shown("FILE.partial", "none")] = None
    """Go on with a measurement that was stopped, from the file that it left, with the options that it had"""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MeasureRoofline:
        """The options of a run that was stopped. Raises ValueError or TypeError for values that are none."""
        json, workloads = values["json"], tuple(values["workloads"])
        return cls(**{**values, "json": None if json is None else Path(json), "workloads": workloads})

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that cannot be on any machine."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads}: give a whole number of at least 1")
        if not 0.0 <= self.seconds < float("inf"):
            raise ValueError(f"--seconds {self.seconds}: give a number of at least 0")
        if self.json is not None and (self.json.is_dir() or not self.json.absolute().parent.is_dir()):
            raise ValueError(f"--json {self.json}: give the name of a file in a folder that is there")


@dataclass(frozen=True)
class Diff:
    """Tell what changed between two result files of the suite: what is new, gone, faster or slower."""

    before: Annotated[Positional[Path], arg(metavar="A.json")]
    """The older file"""
    after: Annotated[Positional[Path], arg(metavar="B.json")]
    """The newer file"""
    across_machines: bool = False
    """Compare files of different machines all the same: their ratios then say as much about those as about the code"""
    threshold: float = 0.05
    """Which change of a rate is told: a share, 0.05 for 5 %"""

    def check(self) -> None:
        """Raise a ValueError, one line, for a value that cannot be."""
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"--threshold {self.threshold}: give a share from 0 up to, not including, 1")


@dataclass(frozen=True)
class Report:
    """Make one HTML page, pictures and Markdown tables of result files of the suite. The page needs no network."""

    files: Annotated[Positional[tuple[Path, ...]], shown("[FILE.json|FOLDER ...]", "bench/results")] = ()
    """Which results, by file or folder"""
    out: Path = Path("build", "report")
    """The folder to write into: index.html, and for each run a folder with pictures and tables.md"""
    page: bool = True
    """Whether to write index.html"""
    parity: Annotated[Path, shown("FILE.json", "docs/parity.json")] = DOCS / "parity.json"
    """Errors over budgets, as the parity tests write them"""
    bugs: Annotated[Path, shown("FILE.json", "docs/bugs.json")] = DOCS / "bugs.json"
    """Planted bugs, as python -m tests.bugs.table writes them"""

    def check(self) -> None:
        """Raise a ValueError, one line, for a value that cannot be."""
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out}: is a file; give the name of a folder")
