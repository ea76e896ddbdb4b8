"""What can be said on the command line: every option with its help and default, and how a run's settings are saved.

The classes here are what tyro reads (an attribute's docstring is its help) and nothing else: no torch, so that
`--help` is quick. A package with more to choose subclasses them and adds its options.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from reference.config import SIZES, GPTConfig

T = TypeVar("T")

DEFAULT_SIZE = "small"
DEFAULT_TOKENIZER = "char"
DTYPES = ("float32", "float64")


def shown(metavar: str, default: str) -> Any:
    """How --help shows an option whose default is worked out later: as METAVAR, with the rule in words."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Train:
    """Train a GPT on a text: from fresh weights, from published ones, or on from where a run stopped.

    With no options: a small character model on a text that every Python carries, in about two minutes.
    """

    corpus: Annotated[str, arg(metavar="NAME")] = "pydocs"
    """What to learn: pydocs, nursery, counting, stories, code, shakespeare, or the path of a text file; also of token
    files (.bin, .npy, or a folder of them)"""
    tokenizer: Annotated[str | None, shown("NAME", "char; gpt2 with --init-from")] = None
    """How text becomes tokens: char, char-unk, word, byte or gpt2"""

    size: Annotated[str | None, shown("NAME", DEFAULT_SIZE)] = None
    """Shape of the model: tiny, small, counting, characters, mini, gpt2, gpt2-medium, gpt2-large or gpt2-xl; the next
    six options change single values of it"""
    layers: Annotated[int | None, shown("INT", "the size's")] = None
    """Blocks, one after another"""
    heads: Annotated[int | None, shown("INT", "the size's")] = None
    """Attention heads of a block; must divide the width"""
    width: Annotated[int | None, shown("INT", "the size's")] = None
    """Numbers that stand for one token inside the model"""
    block: Annotated[int | None, shown("INT", "the size's")] = None
    """Tokens that the model sees at once; with --init-from, may cut the published one short"""
    dropout: Annotated[float | None, shown("FLOAT", "the size's")] = None
    """Fraction of activations that training switches off at random, 0 up to 1"""
    bias: Annotated[bool | None, shown("{True,False}", "the size's")] = None
    """Whether linear layers and norms have biases"""

    steps: int = 1750
    """Optimizer steps in all"""
    batch_size: int = 12
    """Sequences in a step, each of --block tokens"""
    order: Literal["random", "sequential"] = "random"
    """Where sequences begin: anywhere, or one after another through the text"""
    learning_rate: Annotated[float | None, shown("FLOAT", "0.5 / width, at most 4e-3; 3e-5 with --init-from")] = None
    """Highest learning rate"""
    lowest_learning_rate: Annotated[float | None, shown("FLOAT", "a tenth of --learning-rate")] = None
    """Learning rate at the last step; a cosine leads down to it"""
    warmup: Annotated[int | None, shown("INT", "a twentieth of --steps, at most 100")] = None
    """Steps over which the learning rate climbs at the start"""
    weight_decay: float = 0.1
    """Fraction of a matrix or embedding lost per step and unit of learning rate"""
    betas: tuple[float, float] = (0.9, 0.99)
    """How much of AdamW's two moments survives a step"""
    clip: float = 1.0
    """Largest norm of the gradient; inf switches clipping off"""
    seed: int = 1337
    """Decides the first weights, the order of the data and the dropout"""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one"""
    dtype: Annotated[str, arg(metavar="NAME")] = "float32"
    """Precision of the weights: float32 or float64"""
    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads; another number rounds differently in the last bits"""

    eval_interval: int = 250
    """Steps between two validations"""
    eval_windows: Annotated[int | None, shown("INT", "the whole split")] = None
    """Windows of --block tokens in a validation during training, from the start of the validation split"""
    log_interval: int = 10
    """Steps between two lines of the log"""
    checkpoint_interval: int = 500
    """Steps between two checkpoints"""
    keep: int = 2
    """Newest checkpoints to keep"""

    init_from: Annotated[str | None, shown("NAME", "fresh weights")] = None
    """Start from published weights: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""
    resume: Annotated[Path | None, shown("RUN", "a new run")] = None
    """Go on with a run exactly where it stopped, with its own settings; other options change them"""
    out: Annotated[Path | None, shown("FOLDER", "runs/CORPUS-DATE-TIME")] = None
    """Folder for the run; must be new or empty"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that cannot be whatever the text and the weights are."""
        from reference.training.adamw import check_settings as check_adamw
        from reference.training.schedule import check_schedule

        for name in ("steps", "batch_size", "eval_interval", "log_interval", "checkpoint_interval", "keep"):
            at_least(1, name, getattr(self, name))
        for name in ("threads", "eval_windows"):
            if getattr(self, name) is not None:
                at_least(1, name, getattr(self, name))
        at_least(0, "seed", self.seed)
        if self.seed >= 2**63:
            raise ValueError(f"--seed {self.seed}: give a number below 2^63 = {2**63}")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype}: give one of {', '.join(DTYPES)}")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"unknown size {self.size!r}: give one of {', '.join(SIZES)}")
        if self.init_from is None:
            self.shape(vocab_size=1)  # heads that do not divide the width, and the like
        if self.learning_rate == math.inf:
            raise ValueError("--learning-rate inf: give a number above 0 that is not infinite")
        check_schedule(peak=self.peak(), warmup=self.warmup_steps(), total=self.steps, floor=self.floor())
        check_adamw(self.weight_decay, self.betas, eps=1e-8)
        if not self.clip > 0.0:
            raise ValueError(f"--clip {self.clip}: give a number above 0; inf switches clipping off")

    def shape(self, vocab_size: int) -> GPTConfig:
        """The model's shape: that of --size with the single values given; a ValueError if they do not go together."""
        return dataclasses.replace(SIZES[self.size or DEFAULT_SIZE], vocab_size=vocab_size, **self.shape_changes())

    def shape_changes(self) -> dict[str, Any]:
        """The single values of the shape that were given, by their names in GPTConfig."""
        given = {
            "block_size": self.block,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.width,
            "dropout": self.dropout,
            "bias": self.bias,
        }
        return {name: value for name, value in given.items() if value is not None}

    def completed(self, config: GPTConfig, tokenizer: str) -> Self:
        """These settings with nothing left to be worked out: what is saved with the run."""
        return dataclasses.replace(
            self,
            corpus=corpus_key(self.corpus),
            tokenizer=tokenizer,
            size=self.size if self.init_from else self.size or DEFAULT_SIZE,
            layers=config.n_layer,
            heads=config.n_head,
            width=config.n_embd,
            block=config.block_size,
            dropout=config.dropout,
            bias=config.bias,
            learning_rate=self.peak(),
            lowest_learning_rate=self.floor(),
            warmup=self.warmup_steps(),
            resume=None,
            out=None,
        )

    def peak(self) -> float:
        """The highest learning rate.

        What suits a model from scratch falls about as one over its width (Yang and Hu 2021,
        https://arxiv.org/abs/2011.14522); 0.5 / width is 4e-3 for the small size and 6.5e-4 for gpt2. Published weights
        are to be kept, and moved gently.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        if self.init_from is not None:
            return 3e-5
        return min(0.5 / (self.width or SIZES[self.size or DEFAULT_SIZE].n_embd), 4e-3)

    def floor(self) -> float:
        """The lowest learning rate."""
        return self.peak() / 10 if self.lowest_learning_rate is None else self.lowest_learning_rate

    def warmup_steps(self) -> int:
        """Steps of warm-up."""
        return min(100, self.steps // 20) if self.warmup is None else self.warmup

    def to_json(self) -> dict[str, Any]:
        """Plain values by name, for `from_json`. What belongs to one command and not to the run is left out."""
        values = {name: v for name, v in dataclasses.asdict(self).items() if name not in ("resume", "out")}
        return {name: "inf" if v == math.inf else v for name, v in values.items()}  # JSON has no infinity

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The settings that `to_json` gave.

        Names that this class does not have are passed over and ones that are not there take their default, because a
        run of one package may be resumed by the other, which has more or fewer options.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {name: math.inf if v == "inf" else v for name, v in values.items() if name in names}
        known |= {name: tuple(v) for name, v in known.items() if isinstance(v, list)}  # JSON has no other sequences
        return cls(**known)


# A resumed run with another value of one of these would be another run: other batches, other weights.
FIXED = (
    *("corpus", "tokenizer", "size", "layers", "heads", "width", "block", "bias"),
    *("batch_size", "order", "seed", "dtype", "init_from"),
)


def check_resumable(saved: Train, asked: Train) -> None:
    """Raise a ValueError naming the first option that would make another run of a resumed one."""
    if asked.out is not None:
        raise ValueError(f"--out {asked.out} with --resume: a resumed run goes on in its own folder; leave one out")
    asked = dataclasses.replace(asked, corpus=corpus_key(asked.corpus))
    for name in FIXED:
        before, now = getattr(saved, name), getattr(asked, name)
        if before != now:
            raise ValueError(
                f"{option(name)} {now} with --resume: the run has {before}, and with another value it would not be "
                f"the same run; leave {option(name)} out, or start a new run without --resume"
            )


@dataclass(frozen=True)
class Sample:
    """Let a trained model write: print a prompt and what the model makes of it, token by token."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    prompt: Annotated[str | None, shown("TEXT", "a line break, or <|endoftext|> for gpt2")] = None
    """Text to go on from; of one longer than the model's block, the model sees only the end"""
    tokens: int = 500
    """Tokens to write"""
    samples: int = 1
    """How many texts to write, each with randomness of its own"""
    temperature: float = 1.0
    """Below 1 plays safe, above 1 dares; 0 always takes the most probable token"""
    top_k: Annotated[int | None, shown("INT", "all tokens")] = None
    """Draw only from the k most probable tokens"""
    top_p: Annotated[float | None, shown("FLOAT", "all tokens")] = None
    """Draw only from the most probable tokens that together have probability p"""
    seed: int = 1337
    """Decides what is drawn: the same seed writes the same texts"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        from reference.sampling import check_sampling

        at_least(1, "tokens", self.tokens)
        at_least(1, "samples", self.samples)
        at_least(0, "seed", self.seed)
        check_sampling(self.temperature, self.top_k, self.top_p)
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class Eval:
    """Measure a trained model: loss, perplexity and bits on a text's validation split, every token counted once."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    corpus: Annotated[str | None, shown("NAME", "the run's own")] = None
    """Another text to measure on: a corpus by name, or the path of a text file"""
    split: Literal["validation", "train", "both"] = "validation"
    """The last tenth of the text, the rest of it, or one after the other"""
    windows: Annotated[int | None, shown("INT", "the whole split")] = None
    """Read only so many windows of the model's block, from the start of the split"""
    batch_size: Annotated[int | None, shown("INT", "what fits well")] = None
    """Windows at once; changes the speed, not the result"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        for name in ("windows", "batch_size"):
            if getattr(self, name) is not None:
                at_least(1, name, getattr(self, name))
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class PlotLoss:
    """Draw the loss of one or more runs over their steps, in training and in validation."""

    runs: Annotated[Positional[tuple[Path, ...]], shown("[RUN ...]", "the newest in runs/")] = ()
    """Folders of runs; several share one picture"""
    out: Annotated[Path | None, shown("FILE", "loss.png, in the run's folder if it is one run")] = None
    """Picture to write: .png, .svg or .html"""


@dataclass(frozen=True)
class PlotAttention:
    """Draw what each head of each layer looks at, for every token of a prompt."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    prompt: Annotated[str | None, shown("TEXT", "the first words of the run's validation text")] = None
    """Text to read; at most as long as the model's block"""
    layer: Annotated[int | None, shown("INT", "all")] = None
    """Draw only this layer, counted from 0"""
    head: Annotated[int | None, shown("INT", "all")] = None
    """Draw only this head, counted from 0"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""
    out: Annotated[Path | None, shown("FILE", "attention.png in the run's folder")] = None
    """Picture to write: .png, .svg or .html"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class PlotEmbedding:
    """Draw the token embedding as a map: tokens that the model treats alike lie together."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""
    out: Annotated[Path | None, shown("FILE", "embedding.png in the run's folder")] = None
    """Picture to write: .png, .svg or .html"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class PlotHistograms:
    """Draw how activations and gradients are distributed, before the first block and after each."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    corpus: Annotated[str | None, shown("NAME", "the run's own")] = None
    """Another text to read: a corpus by name, or the path of a text file"""
    windows: int = 8
    """Read so many windows of the model's block, from the start of the validation split"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""
    out: Annotated[Path | None, shown("FILE", "histograms.png in the run's folder")] = None
    """Picture to write: .png, .svg or .html"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        at_least(1, "windows", self.windows)
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class PlotTemperature:
    """Draw what a model says at several temperatures, each token as dark as it was probable."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Folder of a run, or one step-NNNNNN folder of it"""
    prompt: Annotated[str | None, shown("TEXT", "the first words of the run's validation text")] = None
    """Text to go on from; of one longer than the model's block, the model sees only the end"""
    tokens: int = 48
    """Tokens to write at each temperature, at most 200"""
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    """One line of the picture for each; 0 always takes the most probable token"""
    seed: int = 1337
    """Decides what is drawn, by the same dice at each temperature"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Instead of a run: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in their format"""
    out: Annotated[Path | None, shown("FILE", "temperature.png in the run's folder")] = None
    """Picture to write: .png, .svg or .html"""

    def check(self) -> None:
        """Raise a ValueError, one line, for values that cannot be whatever the model is."""
        from reference.sampling import check_sampling

        at_least(1, "tokens", self.tokens)
        if self.tokens > 200:
            raise ValueError(f"--tokens {self.tokens}: a picture takes at most 200")
        at_least(0, "seed", self.seed)
        if not 1 <= len(self.temperatures) <= 12 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"--temperatures {self.temperatures}: give 1 to 12, each once")
        for temperature in self.temperatures:
            check_sampling(temperature, None, None)
        check_one_source(self.run, self.init_from)


@dataclass(frozen=True)
class Plot:
    """Draw a picture: the loss of runs, or what is inside a trained model."""

    picture: OmitSubcommandPrefixes[
        Annotated[PlotLoss, subcommand("loss")]
        | Annotated[PlotAttention, subcommand("attention")]
        | Annotated[PlotEmbedding, subcommand("embedding")]
        | Annotated[PlotHistograms, subcommand("histograms")]
        | Annotated[PlotTemperature, subcommand("temperature")]
    ]


def option(name: str) -> str:
    """An attribute as the user types it: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def at_least(low: int, name: str, value: int) -> None:
    """Raise a ValueError if a whole number is too small."""
    if value < low:
        raise ValueError(f"{option(name)} {value}: give a whole number of at least {low}")


def check_one_source(run: Path | None, init_from: str | None) -> None:
    """Raise a ValueError if a model is named twice."""
    if run is not None and init_from is not None:
        raise ValueError(f"both the run {run} and --init-from {init_from}: give one of them")


def corpus_key(corpus: str) -> str:
    """A corpus as it is saved: its name, or the full path of a file, so that a run resumes from any directory."""
    from reference.data.corpora import CORPORA

    return corpus if corpus in CORPORA else str(Path(corpus).resolve())
