"""Recipes: sets of rungs, and the table of all rungs.

No torch here, so that the command line can list rungs without it; devices and dtypes are given by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from optimized.hardware import Hardware, hardware_of
from reference.config import GPTConfig

# The slots inside the model, and those around it: the process, the training step, generation, the launch.
MODEL_SLOTS = ("qkv", "attention", "norm_mlp", "embedding", "loss", "precision", "compilation")
AROUND_SLOTS = ("memory", "optimizer", "generation", "distributed")

VOCAB_MULTIPLE = 128  # of the rows of a padded table
LEAST_BFLOAT16_WIDTH = 256  # of a model, on a CPU: docs/machines.md has the measurements


# The reason, in words, why a rung does not pay on a device at a shape (None for any shape); None if it pays.
Cost = Callable[[Hardware, GPTConfig | None], str | None]


def pays(hardware: Hardware, config: GPTConfig | None) -> None:
    """The cost of a rung without a known device or shape on which it loses."""


def cost_of_bfloat16(hardware: Hardware, config: GPTConfig | None) -> str | None:
    """bfloat16 pays with instructions for it, and if products are large enough to outweigh the conversions."""
    if not hardware.tried:
        return f"not measured on {hardware.kind} yet"
    if not hardware.bfloat16:
        return f"this {hardware.kind.upper()} has no bfloat16 instructions and would emulate them"
    if hardware.kind == "cpu" and config is not None and config.n_embd < LEAST_BFLOAT16_WIDTH:
        return f"products of width {config.n_embd} are too small to win back the conversions to bfloat16"
    return None


def cost_of_fused_kernels(hardware: Hardware, config: GPTConfig | None) -> str | None:
    """Without vector instructions the fused kernels are slower than chains of simple operations."""
    return None if hardware.vectors else "torch's own kernels use no vector instructions here"


def cost_of_compiling(hardware: Hardware, config: GPTConfig | None) -> str | None:
    """torch.compile needs a C++ compiler and a cache on disk for a CPU, and Triton for a GPU."""
    if not hardware.tried:
        return f"not measured on {hardware.kind} yet"
    if not hardware.cache:
        return "torch.compile cannot write its cache: set TORCHINDUCTOR_CACHE_DIR to another folder"
    if hardware.compiler:
        return None
    return (
        f"torch.compile finds {'no C++ compiler here that it can use' if hardware.kind == 'cpu' else 'no Triton here'}"
    )


def cost_of_keeping(hardware: Hardware, config: GPTConfig | None) -> str | None:
    """On a GPU torch keeps freed memory itself, so the rung costs nothing there."""
    return None if hardware.keeps_memory or hardware.kind != "cpu" else "this C library cannot be told to keep memory"


def cost_of_padding(hardware: Hardware, config: GPTConfig | None) -> str | None:
    """Padding rows take as long to compute as others."""
    if config is None or -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE <= 1.05 * config.vocab_size:
        return None
    return f"padding would make a vocabulary of {config.vocab_size} more than 5 % larger"


@dataclass(frozen=True)
class Rung:
    """One optimization: its claim, when it loses, and its devices and dtypes."""

    name: str
    slot: str  # that it fills: also the name of its file and of its test
    claim: str
    loses: str  # when it does not pay
    devices: tuple[str, ...] = ()  # supported device types; empty for all
    dtypes: tuple[str, ...] = ()  # supported dtypes of the weights; empty for all
    in_full: bool = True
    cost: Cost = pays

    @property
    def in_model(self) -> bool:
        """Whether it changes model(ids) or model.loss(ids, targets)."""
        return self.slot in MODEL_SLOTS

    def clash(self, device: str, dtype: str) -> str | None:
        """The device or dtype that excludes it, in words; None if it is supported."""
        if self.devices and device not in self.devices:
            return f"the device {device}"
        if self.dtypes and dtype not in self.dtypes:
            return f"{dtype} weights"
        return None


# In ladder order. Tests and benchmarks read this table: a new row is proven and measured everywhere.
RUNGS: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung(
            "fused_qkv",
            "qkv",
            claim="one projection for q, k and v: the same numbers, and the same checkpoint bit for bit",
            loses="where the product is so small that splitting its output costs more than two calls",
        ),
        Rung(
            "sdpa",
            "attention",
            claim="scaled_dot_product_attention: the same numbers and gradients, no T x T matrix kept",
            loses="at a few tokens, where there is nothing to save",
        ),
        Rung(
            "fused_kernels",
            "norm_mlp",
            claim="layer norm and GELU as one library kernel each: the same numbers and gradients",
            loses="beside compile, which fuses the written-out forms as well; where kernels use no vector instructions",
            cost=cost_of_fused_kernels,
        ),
        Rung(
            "padded_vocab",
            "embedding",
            claim="a table of a multiple of 128 rows: padding has exactly zero probability, gradient and movement",
            loses="where products do not care about alignment, and at tiny vocabularies",
            cost=cost_of_padding,
        ),
        Rung(
            "fused_loss",
            "loss",
            claim="head and cross-entropy in chunks: the same loss and gradients, the B x T x V logits never exist",
            loses="where all the logits are small anyway",
        ),
        Rung(
            "bf16",
            "precision",
            claim="products in bfloat16 over float32 weights: no more error than plain code has in bfloat16",
            loses="on a CPU without bfloat16 instructions, and at small widths",
            dtypes=("float32",),
            cost=cost_of_bfloat16,
        ),
        Rung(
            "tf32",
            "precision",
            claim="float32 products of 10-bit inputs: no more error than that rounding gives plain code",
            loses="beside bf16, which leaves it nothing to do",
            devices=("cuda",),
            dtypes=("float32",),
            in_full=False,
        ),
        Rung(
            "compile",
            "compilation",
            claim="torch.compile of one block's code for all blocks, once per shape: as eager within rounding",
            loses="in short runs, which end before the compile time is won back",
            cost=cost_of_compiling,
        ),
        Rung(
            "kept_memory",
            "memory",
            claim="what a CPU step frees is kept for the next one, which then need not ask for it: nothing is computed",
            loses="where other programs want the memory, and where the C library is not glibc, which has the setting",
            cost=cost_of_keeping,
        ),
        Rung(
            "fused_adamw",
            "optimizer",
            claim="the library's one-kernel AdamW: the same parameters after n steps",
            loses="for a handful of small parameters",
            devices=("cpu", "cuda", "mps", "xpu"),
        ),
        Rung(
            "kv_cache",
            "generation",
            claim="keys and values kept while generating: the same logits, whatever the chunks",
            loses="for a single token, and beyond the block size, where every position changes",
        ),
        Rung(
            "ddp",
            "distributed",
            claim="the batch shared by several processes: the gradient of the whole batch",
            loses="where exchanging gradients takes longer than the work that is saved",
        ),
    )
}


@dataclass(frozen=True)
class Recipe:
    """A set of rungs, always in ladder order. ValueError for an unknown rung."""

    rungs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = tuple(self.rungs)
        check_names(given)
        object.__setattr__(self, "rungs", tuple(name for name in RUNGS if name in given))

    def __contains__(self, name: str) -> bool:
        return name in self.rungs

    def __str__(self) -> str:
        return {PLAIN: "plain", FULL: "full"}.get(self) or "+".join(self.rungs)

    def plus(self, *names: str) -> Recipe:
        """This recipe with more rungs."""
        return Recipe((*self.rungs, *names))

    def without(self, *names: str) -> Recipe:
        """This recipe without some rungs."""
        check_names(names)
        return Recipe(tuple(name for name in self.rungs if name not in names))

    def possible(self, device: str, dtype: str) -> Recipe:
        """This recipe without the rungs that a device ("cuda") or dtype ("float32") excludes."""
        return Recipe(tuple(name for name in self.rungs if RUNGS[name].clash(device, dtype) is None))

    def check(self, device: str, dtype: str) -> None:
        """Raise a ValueError for the first rung that the device or dtype excludes, with the choices."""
        for name in self.rungs:
            rung = RUNGS[name]
            clash = rung.clash(device, dtype)
            if clash is not None:
                excluded = rung.devices and device not in rung.devices
                wanted = f"the device {' or '.join(rung.devices)}" if excluded else rung.dtypes[0]
                raise ValueError(
                    f"the rung {name} and {clash} do not go together: leave {name} out of the recipe, "
                    f"or choose {wanted}"
                )


def check_names(names: Iterable[str]) -> None:
    """Raise a ValueError for the first unknown rung."""
    for name in names:
        if name not in RUNGS:
            raise ValueError(f"unknown rung {name!r}: give some of {', '.join(RUNGS)}")


PLAIN = Recipe()
FULL = Recipe(tuple(name for name, rung in RUNGS.items() if rung.in_full))


def only(*names: str) -> Recipe:
    """PLAIN with these rungs."""
    return Recipe(names)


def without(*names: str) -> Recipe:
    """FULL without these rungs."""
    return FULL.without(*names)


def upto(name: str) -> Recipe:
    """The rungs of FULL up to this one, which is included even if it is not in FULL."""
    check_names([name])
    ladder = list(RUNGS)
    before = ladder[: ladder.index(name)]
    return Recipe((*(rung for rung in before if rung in FULL), name))


def best(device: str = "cpu", dtype: str = "float32", config: GPTConfig | None = None) -> Recipe:
    """The rungs of FULL that pay on a device of this machine: the default everywhere.

    Args:
        device: name or type: "cpu", "cuda:1"
        dtype: of the weights
        config: the shape of the model; None to ignore costs of single shapes
    """
    return best_on(hardware_of(device), dtype, config)


def best_on(hardware: Hardware, dtype: str = "float32", config: GPTConfig | None = None) -> Recipe:
    """As `best`, on any hardware."""
    return FULL.without(*left_out_on(hardware, dtype, config))


def left_out(device: str = "cpu", dtype: str = "float32", config: GPTConfig | None = None) -> dict[str, str]:
    """The rungs of FULL that `best` leaves out, each with the reason."""
    return left_out_on(hardware_of(device), dtype, config)


def left_out_on(hardware: Hardware, dtype: str = "float32", config: GPTConfig | None = None) -> dict[str, str]:
    """As `left_out`, on any hardware."""
    found = {}
    for name in FULL.rungs:
        clash = RUNGS[name].clash(hardware.kind, dtype)
        why = f"{clash} cannot have it" if clash else RUNGS[name].cost(hardware, config)
        if why is not None:
            found[name] = why
    return found
