"""What the benchmark suite measures: named workloads, what is done with each, by whom, and how long it may take.

A sitting is a process that does some tasks one after the other. Each task does everything that those before it do, and
so the most memory that the process ever held is also that of the last task alone:

    forward     forward
    training    forward, loss_and_gradient, then training_step
    step        training_step
    ladder      per_token of one text, then training_step, which holds far more than that
    text        prefill, then per_token: one text
    texts       the same: eight texts side by side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.flops import (
    forward_flops_per_token,
    generated_flops_per_token,
    prefill_flops,
    training_flops_per_token,
)
from bench.memory import activation_bytes, needed_bytes
from bench.workloads import Workload, workload

# name -> (size, batch, time)
WORKLOADS: dict[str, tuple[str, int, int]] = {
    "smoke": ("tiny", 8, 64),
    "mini-64": ("mini", 2, 64),
    "mini": ("mini", 4, 128),
    "gpt2-128": ("gpt2", 1, 128),
    "gpt2-512": ("gpt2", 4, 512),
    "gpt2": ("gpt2", 1, 1024),
    "gpt2-xl": ("gpt2-xl", 1, 1024),
}
SITTINGS: dict[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "training": ("forward", "loss_and_gradient", "training_step"),
    "step": ("training_step",),
    "text": ("prefill", "per_token"),
    "texts": ("prefill", "per_token"),
    "ladder": ("per_token", "training_step"),
}
ROWS = {"text": 1, "texts": 8}
EVERY_SITTING = ("training", "text", "texts")

LIBRARIES = ("x-transformers", "keras-hub")  # take part where they are installed
PEERS = (
    *("reference", "huggingface-eager", "huggingface-sdpa", "huggingface-bf16", "huggingface-best"),
    *(*LIBRARIES, "plain", "optimized", "full-float32"),
)
EVERYBODY = (*PEERS, "huggingface-compiled")
FEW = ("reference", "huggingface-sdpa", "plain", "optimized")
LARGE = ("reference", "huggingface-sdpa", "huggingface-best", "plain", "optimized")
BASE = "reference"  # what ratios are to

INTERPRETER = 600_000_000  # bytes that a process takes for the interpreter, torch and transformers


@dataclass(frozen=True)
class Row:
    """One row of a plan."""

    workload: str
    sittings: tuple[str, ...]
    contenders: tuple[str, ...]
    starts: int = 1  # of every process, for the last task of each sitting


@dataclass(frozen=True)
class Plan:
    """What a run of the suite does unless its options say otherwise."""

    rows: tuple[Row, ...]
    parts: tuple[str, ...]  # whose shapes parts are measured at; what does not scale at the first, in a whole run
    ladder: Row | None  # where the three prices are measured; its contenders are the recipes of bench/prices.py
    scaling: bool
    seconds: float  # to time one task of one contender in, about
    rounds: tuple[int, int]  # at least and at most
    left_out: tuple[str, ...] = ()  # what a user might look for in vain, with what to ask for


QUICK = Plan(
    (Row("smoke", EVERY_SITTING, FEW), Row("mini-64", ("training",), FEW)),
    parts=("smoke",),
    ladder=None,
    scaling=False,
    seconds=0.5,
    rounds=(5, 50),
    left_out=("tokenizers, batches and checkpoints, prices and curves: are part of a whole run",),
)
CPU = Plan(
    (
        Row("smoke", EVERY_SITTING, FEW),
        Row("mini", ("training", "text"), PEERS),
        Row("gpt2-128", ("training", "text"), LARGE),
    ),
    parts=("mini-64",),
    ladder=Row("mini-64", ("ladder",), (), starts=3),
    scaling=True,
    seconds=0.4,
    rounds=(3, 50),
    left_out=(
        "gpt2 and gpt2-xl at 1,024 tokens: take longer than all the rest: give --workloads gpt2",
        "huggingface-compiled: huggingface-best is compiled too: give --contenders huggingface-compiled",
    ),
)
ACCELERATOR = Plan(
    (
        Row("smoke", EVERY_SITTING, EVERYBODY),
        Row("mini", EVERY_SITTING, EVERYBODY),
        Row("gpt2-512", EVERY_SITTING, EVERYBODY),
        Row("gpt2", EVERY_SITTING, EVERYBODY),
        Row("gpt2-xl", EVERY_SITTING, LARGE),
    ),
    parts=("mini", "gpt2"),
    ladder=Row("gpt2-512", ("ladder",), (), starts=3),
    scaling=True,
    seconds=2.0,
    rounds=(5, 50),
)


def plan_for(device_type: str, quick: bool, workloads: Sequence[str] = (), contenders: Sequence[str] = ()) -> Plan:
    """The plan of a device, narrowed to some workloads and contenders by name.

    A workload that the plan has not is done whole, by the peers of the large ones. The base of the ratios always takes
    part. Raises ValueError, one line, for a workload that does not exist.
    """
    plan = QUICK if quick else CPU if device_type == "cpu" else ACCELERATOR
    for name in workloads:
        if name not in WORKLOADS:
            raise ValueError(f"unknown workload {name!r}: give some of {', '.join(WORKLOADS)}")
    rows = plan.rows
    if workloads:
        known = {row.workload: row for row in rows}
        rows = tuple(known.get(name, Row(name, EVERY_SITTING, LARGE)) for name in workloads)
    if contenders:
        who = tuple(dict.fromkeys((BASE, *contenders)))
        rows = tuple(replace(row, contenders=who) for row in rows)
    return replace(plan, rows=rows, left_out=() if workloads or contenders else plan.left_out)


def named(name: str) -> Workload:
    """The workload of a name in `WORKLOADS`."""
    return workload(*WORKLOADS[name])


def text_shape(work: Workload, sitting: str = "text") -> tuple[int, int]:
    """(prompt, new): 32 and 32 tokens, 12 in the ladder, where half write without a cache; less in a smaller block."""
    new = min(12 if sitting == "ladder" else 32, work.config.block_size // 2)
    return min(32, work.config.block_size - new), new


def rows_of(work: Workload, sitting: str, task: str) -> int:
    """Sequences side by side in a task of a sitting."""
    return ROWS.get(sitting, 1 if task in ("prefill", "per_token") else work.batch)


def tokens_of(work: Workload, sitting: str, task: str) -> int:
    """Tokens of one call of a task: those that go through the model, or for `per_token` one for each text."""
    rows = rows_of(work, sitting, task)
    if task == "prefill":
        return rows * text_shape(work)[0]
    return rows if task == "per_token" else work.tokens


def flops_per_token(work: Workload, task: str) -> float:
    """Operations for each of those tokens, by the formulas of bench/flops.py."""
    prompt, new = text_shape(work)
    if task == "forward":
        return forward_flops_per_token(work.config, work.time)
    if task == "prefill":
        return prefill_flops(work.config, prompt) / prompt
    if task == "per_token":
        return generated_flops_per_token(work.config, prompt, new)
    return training_flops_per_token(work.config, work.time)


def sitting_bytes(work: Workload, sitting: str) -> int:
    """About how much memory one process of a sitting takes at its highest, computing in float32."""
    c, N = work.config, work.config.parameter_count()
    if sitting in ("training", "step", "ladder"):
        return INTERPRETER + 16 * N + activation_bytes(work, 4)
    if sitting == "forward":
        layer = work.batch * c.n_head * work.time**2 * 3 + work.tokens * 12 * c.n_embd
        return INTERPRETER + 4 * (N + 2 * work.tokens * c.vocab_size + layer)
    length = sum(text_shape(work))
    rows = ROWS[sitting]
    cache = 2 * rows * c.n_layer * length * c.n_embd
    # weights and a second copy of them, in whatever layout or precision generates best; the readable way scores all
    return INTERPRETER + 4 * (2 * N + cache + 2 * rows * length * c.vocab_size)


def misfit(name: str, sitting: str, together: int, available: int | None) -> str | None:
    """Why a sitting cannot be, in one line; None if it fits.

    Args:
        together: processes that have to be there at once: two for a ratio, one if there is only one contender
        available: bytes that are free; None where that cannot be told
    """
    return too_large(f"{name}/{sitting}", sitting_bytes(named(name), sitting), together, available)


def too_large(what: str, each: int, together: int, available: int | None) -> str | None:
    """The line for processes that do not fit into memory side by side; None if they do."""
    needed = together * each
    if available is None or needed <= available:
        return None
    return (
        f"{what}: needs about {needed / 1e9:.1f} GB of memory for {together} processes side by side, "
        f"{available / 1e9:.1f} GB are free: left out"
    )


def proof_misfit(name: str, available: int | None) -> str | None:
    """Why a workload cannot be proven, and so not be measured, in one line; None if it can."""
    work = named(name)
    small = work.of_shape(*work.proof_shape())
    # logits and loss are proven on the whole batch
    needed = needed_bytes(small, "float32", 1, 2) + 3 * 8 * (work.tokens - small.tokens) * work.config.vocab_size
    if available is None or needed <= available:
        return None
    return (
        f"{name}: its proof in float64 needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free: "
        "left out, as there is no number without a proof"
    )
