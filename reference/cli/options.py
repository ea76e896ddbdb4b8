"""Command-line options with their help and defaults, and how a run saves its settings.

tyro reads these classes; an attribute's docstring is its help text. No torch here: `--help` must be quick. A package
adds options in subclasses.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from reference.config import SIZES, GPTConfig
from reference.training.defaults import CLIP, EPS, SMALL_RUN_BETAS, WEIGHT_DECAY

T = TypeVar("T")

DEFAULT_SIZE = "small"
DEFAULT_TOKENIZER = "char"
DTYPES = ("float32", "float64")


def shown(metavar: str, default: str) -> Any:
    """Show an option in --help as METAVAR, with its default in words, because the default is computed later."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Train:
    """Train a GPT on a text: from scratch, from pretrained weights, or resume a run.

    Without options: a small character-level model on the text that comes with Python, in about two minutes.
    """

    corpus: Annotated[str, arg(metavar="NAME")] = "pydocs"
    """Training text: pydocs, nursery, counting, stories, code, shakespeare, or the path of a text file, a token file
    (.bin, .npy) or a folder of token files"""
    tokenizer: Annotated[str | None, shown("NAME", "char; gpt2 with --init-from")] = None
    """Tokenizer: char, char-unk, word, byte or gpt2"""

    size: Annotated[str | None, shown("NAME", DEFAULT_SIZE)] = None
    """Model size: tiny, small, counting, characters, mini, gpt2, gpt2-medium, gpt2-large or gpt2-xl; the next six
    options override single values"""
    layers: Annotated[int | None, shown("INT", "the size's")] = None
    """Number of transformer blocks (n_layer)"""
    heads: Annotated[int | None, shown("INT", "the size's")] = None
    """Attention heads per block (n_head); must divide the width"""
    width: Annotated[int | None, shown("INT", "the size's")] = None
    """Embedding width (n_embd)"""
    block: Annotated[int | None, shown("INT", "the size's")] = None
    """Context length in tokens (block_size); with --init-from, at most that of the pretrained weights"""
    dropout: Annotated[float | None, shown("FLOAT", "the size's")] = None
    """Dropout probability during training, at least 0 and below 1"""
    bias: Annotated[bool | None, shown("{True,False}", "the size's")] = None
    """Biases in linear layers and LayerNorms"""

    steps: int = 1750
    """Optimizer steps in total"""
    batch_size: int = 12
    """Sequences per step, each of --block tokens"""
    order: Literal["random", "sequential"] = "random"
    """Order of sequences: from random positions, or one after another through the text"""
    learning_rate: Annotated[float | None, shown("FLOAT", "0.5 / width, at most 4e-3; 3e-5 with --init-from")] = None
    """Peak learning rate"""
    lowest_learning_rate: Annotated[float | None, shown("FLOAT", "a tenth of --learning-rate")] = None
    """Final learning rate, at the end of a cosine schedule"""
    warmup: Annotated[int | None, shown("INT", "a twentieth of --steps, at most 100")] = None
    """Steps of linear learning-rate warmup"""
    weight_decay: float = WEIGHT_DECAY
    """Decoupled weight decay, on matrices and embeddings"""
    betas: tuple[float, float] = SMALL_RUN_BETAS
    """AdamW beta1 and beta2"""
    clip: float = CLIP
    """Maximum gradient norm (L2, over all parameters); inf disables clipping"""
    seed: int = 1337
    """Random seed of initial weights, data order and dropout"""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto prefers an accelerator"""
    dtype: Annotated[str, arg(metavar="NAME")] = "float32"
    """Precision of the weights: float32 or float64"""
    threads: Annotated[int | None, shown("INT", "torch's choice, one per core")] = None
    """CPU threads; the number affects rounding in the last bits"""

    eval_interval: int = 250
    """Steps between validations"""
    eval_windows: Annotated[int | None, shown("INT", "the whole split")] = None
    """Windows of --block tokens per validation, from the start of the validation split"""
    log_interval: int = 10
    """Steps between log lines"""
    checkpoint_interval: int = 500
    """Steps between checkpoints"""
    keep: int = 2
    """Number of newest checkpoints to keep"""

    init_from: Annotated[str | None, shown("NAME", "fresh weights")] = None
    """Pretrained weights to start from: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in Hugging Face's format"""
    resume: Annotated[Path | None, shown("RUN", "a new run")] = None
    """Run to resume exactly where it stopped, with its own settings; other options override them"""
    out: Annotated[Path | None, shown("FOLDER", "runs/CORPUS-DATE-TIME")] = None
    """Folder for the run; must be new or empty"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as text and weights do not matter."""
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
        check_adamw(self.weight_decay, self.betas, EPS)
        if not self.clip > 0.0:
            raise ValueError(f"--clip {self.clip}: give a number above 0; inf switches clipping off")

    def shape(self, vocab_size: int) -> GPTConfig:
        """The model's shape: --size with the given values changed. ValueError if they do not fit together."""
        return dataclasses.replace(SIZES[self.size or DEFAULT_SIZE], vocab_size=vocab_size, **self.shape_changes())

    def shape_changes(self) -> dict[str, Any]:
        """The values of the shape given by their own options, by their names in GPTConfig."""
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
        """These settings with every default filled in: what is saved with the run."""
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

        The best rate for training from scratch falls roughly as 1 / width (Yang and Hu 2021,
        https://arxiv.org/abs/2011.14522); 0.5 / width is 4e-3 for the small size and 6.5e-4 for gpt2. Fine-tuning
        pretrained weights needs a lower rate.
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
        """Plain values by name, for `from_json`; without the options of a single command, --resume and --out."""
        values = {name: v for name, v in dataclasses.asdict(self).items() if name not in ("resume", "out")}
        return {name: "inf" if v == math.inf else v for name, v in values.items()}  # JSON has no infinity

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The settings that `to_json` gave.

        Ignores unknown names, and uses defaults for missing ones: the other package, which may resume a run, has more
        or fewer options.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {name: math.inf if v == "inf" else v for name, v in values.items() if name in names}
        known |= {name: tuple(v) for name, v in known.items() if isinstance(v, list)}  # JSON has no other sequences
        return cls(**known)


# A resumed run must keep these: another value means other batches or other weights.
FIXED = (
    *("corpus", "tokenizer", "size", "layers", "heads", "width", "block", "bias"),
    *("batch_size", "order", "seed", "dtype", "init_from"),
)


def check_resumable(saved: Train, asked: Train) -> None:
    """Raise a ValueError for the first option that a resumed run may not change."""
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
class ModelSource:
    """Options that name a trained model."""

    run: Annotated[Positional[Path | None], shown("[RUN]", "the newest in runs/")] = None
    """Run folder, or one of its step-NNNNNN folders"""
    init_from: Annotated[str | None, shown("NAME", "a run")] = None
    """Pretrained weights to use: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder in Hugging Face's format"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as the model does not matter."""
        if self.run is not None and self.init_from is not None:
            raise ValueError(f"both the run {self.run} and --init-from {self.init_from}: give one of them")


@dataclass(frozen=True)
class Device:
    """The option that names a device."""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps"""


@dataclass(frozen=True)
class ModelPicture(ModelSource):
    """Options of a picture of a trained model."""

    out: Annotated[Path | None, shown("FILE", "PICTURE.png in the run's folder")] = None
    """Picture to write: .png, .svg or .html"""


@dataclass(frozen=True)
class Sample(Device, ModelSource):
    """Generate text from a trained model, printed token by token."""

    prompt: Annotated[str | None, shown("TEXT", "a line break, or <|endoftext|> for gpt2")] = None
    """Text to continue; the model sees its last block_size tokens"""
    tokens: int = 500
    """Tokens to generate"""
    samples: int = 1
    """Number of texts to generate, each with its own random numbers"""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the most probable token"""
    top_k: Annotated[int | None, shown("INT", "all tokens")] = None
    """Sample from the k most probable tokens only"""
    top_p: Annotated[float | None, shown("FLOAT", "all tokens")] = None
    """Sample from the smallest set of most probable tokens with total probability p (nucleus sampling)"""
    seed: int = 1337
    """Random seed; the same seed gives the same texts"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as the model does not matter."""
        from reference.sampling import check_sampling

        at_least(1, "tokens", self.tokens)
        at_least(1, "samples", self.samples)
        at_least(0, "seed", self.seed)
        check_sampling(self.temperature, self.top_k, self.top_p)
        super().check()


@dataclass(frozen=True)
class Eval(Device, ModelSource):
    """Evaluate a trained model: loss, perplexity and bits on a text's validation split, each token counted once."""

    corpus: Annotated[str | None, shown("NAME", "the run's own")] = None
    """Text to evaluate on: the name of a corpus, or the path of a text file"""
    split: Literal["validation", "train", "both"] = "validation"
    """Split to evaluate: validation (the last tenth of the text), train (the rest), or both"""
    windows: Annotated[int | None, shown("INT", "the whole split")] = None
    """Number of windows of block_size tokens to read, from the start of the split"""
    batch_size: Annotated[int | None, shown("INT", "what fits well")] = None
    """Windows per batch; changes the speed, not the result"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as the model does not matter."""
        for name in ("windows", "batch_size"):
            if getattr(self, name) is not None:
                at_least(1, name, getattr(self, name))
        super().check()


@dataclass(frozen=True)
class PlotLoss:
    """Plot training and validation loss of one or more runs."""

    runs: Annotated[Positional[tuple[Path, ...]], shown("[RUN ...]", "the newest in runs/")] = ()
    """Run folders; several share one picture"""
    out: Annotated[Path | None, shown("FILE", "loss.png, in the run's folder if it is one run")] = None
    """Picture to write: .png, .svg or .html"""


@dataclass(frozen=True)
class PlotAttention(Device, ModelPicture):
    """Plot attention weights of each layer and head, for every token of a prompt."""

    prompt: Annotated[str | None, shown("TEXT", "the first words of the run's validation text")] = None
    """Text to read; at most block_size tokens"""
    layer: Annotated[int | None, shown("INT", "all")] = None
    """Only this layer, counted from 0"""
    head: Annotated[int | None, shown("INT", "all")] = None
    """Only this head, counted from 0"""


@dataclass(frozen=True)
class PlotEmbedding(ModelPicture):
    """Plot the token embeddings in two dimensions: similar tokens lie close together."""


@dataclass(frozen=True)
class PlotHistograms(Device, ModelPicture):
    """Plot histograms of activations and gradients, before the first block and after each block."""

    corpus: Annotated[str | None, shown("NAME", "the run's own")] = None
    """Text to read: the name of a corpus, or the path of a text file"""
    windows: int = 8
    """Number of windows of block_size tokens to read, from the start of the validation split"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as the model does not matter."""
        at_least(1, "windows", self.windows)
        super().check()


@dataclass(frozen=True)
class PlotTemperature(Device, ModelPicture):
    """Plot texts generated at several temperatures, each token shaded by its probability."""

    prompt: Annotated[str | None, shown("TEXT", "the first words of the run's validation text")] = None
    """Text to continue; the model sees its last block_size tokens"""
    tokens: int = 48
    """Tokens to generate at each temperature, at most 200"""
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    """Sampling temperatures, one line each; 0 always takes the most probable token"""
    seed: int = 1337
    """Random seed, the same for every temperature"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as the model does not matter."""
        from reference.sampling import check_sampling

        at_least(1, "tokens", self.tokens)
        if self.tokens > 200:
            raise ValueError(f"--tokens {self.tokens}: a picture takes at most 200")
        at_least(0, "seed", self.seed)
        if not 1 <= len(self.temperatures) <= 12 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"--temperatures {self.temperatures}: give 1 to 12, each once")
        for temperature in self.temperatures:
            check_sampling(temperature, None, None)
        super().check()


@dataclass(frozen=True)
class Plot:
    """Plot the loss of runs, or the inside of a trained model."""

    picture: OmitSubcommandPrefixes[
        Annotated[PlotLoss, subcommand("loss")]
        | Annotated[PlotAttention, subcommand("attention")]
        | Annotated[PlotEmbedding, subcommand("embedding")]
        | Annotated[PlotHistograms, subcommand("histograms")]
        | Annotated[PlotTemperature, subcommand("temperature")]
    ]


def option(name: str) -> str:
    """The option of an attribute: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def at_least(low: int, name: str, value: int) -> None:
    """Raise a ValueError if `value` is below `low`."""
    if value < low:
        raise ValueError(f"{option(name)} {value}: give a whole number of at least {low}")


def corpus_key(corpus: str) -> str:
    """A corpus as saved with a run: its name, or the absolute path of a file, so that it resumes from any directory."""
    from reference.data.corpora import CORPORA

    return corpus if corpus in CORPORA else str(Path(corpus).resolve())
