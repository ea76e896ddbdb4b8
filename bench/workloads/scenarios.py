"""Named workloads; the tasks, tokens, FLOPs and memory of each scenario.

A scenario is a process that runs tasks one after the other. Each task includes the work of the tasks before it, so the
peak memory of the process is the peak of the last task:

    forward     forward
    training    forward, loss_and_gradient, then training_step
    step        training_step
    ladder      per_token of one text, then training_step, which needs far more memory
    text        prefill, then per_token: one text
    texts       prefill, then per_token: eight texts in a batch
    compare     forward, training_step, generation: one text, its prompt included

`Workload.new` says how many tokens are generated; if it is None, the scenario says it.
"""

from __future__ import annotations

from dataclasses import replace

from bench.workloads.flops import (
    forward_flops_per_token,
    generated_flops_per_token,
    prefill_flops,
    training_flops_per_token,
)
from bench.workloads.memory import activation_bytes, needed_bytes
from bench.workloads.workload import Workload, workload

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
SCENARIOS: dict[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "training": ("forward", "loss_and_gradient", "training_step"),
    "step": ("training_step",),
    "text": ("prefill", "per_token"),
    "texts": ("prefill", "per_token"),
    "ladder": ("per_token", "training_step"),
    "compare": ("forward", "training_step", "generation"),
    "compare_no_text": ("forward", "training_step"),
}
TEXTS = ("prefill", "per_token", "generation")  # tasks
ROWS = {"text": 1, "texts": 8}
EVERY_SCENARIO = ("training", "text", "texts")

INTERPRETER = 600_000_000  # bytes of the interpreter, torch and transformers in a process


def named(name: str) -> Workload:
    """A workload of `WORKLOADS` by name."""
    return replace(workload(*WORKLOADS[name]), label=name)


def text_shape(work: Workload, scenario: str = "text") -> tuple[int, int]:
    """(prompt, new) in tokens: (32, 32), fewer in a small block; 12 new in the ladder, where half have no cache."""
    new = min(12 if scenario == "ladder" else 32, work.config.block_size // 2) if work.new is None else work.new
    return max(1, min(32, work.config.block_size - new)), new


def rows_of(work: Workload, scenario: str, task: str) -> int:
    """Batch size of a task in a scenario."""
    return ROWS.get(scenario, 1 if task in TEXTS else work.batch)


def tokens_of(work: Workload, scenario: str, task: str) -> int:
    """Tokens of one call of a task: all that pass through the model; of a text the new ones, for `per_token` one."""
    rows, (prompt, new) = rows_of(work, scenario, task), text_shape(work)
    if task in ("prefill", "generation"):
        return rows * (prompt if task == "prefill" else new)
    return rows if task == "per_token" else work.tokens


def flops_per_token(work: Workload, task: str) -> float:
    """FLOPs per token of a task, by the formulas of bench/workloads/flops.py."""
    prompt, new = text_shape(work)
    if task == "forward":
        return forward_flops_per_token(work.config, work.time)
    if task == "prefill":
        return prefill_flops(work.config, prompt) / prompt
    if task == "generation":
        further = (new - 1) * generated_flops_per_token(work.config, prompt, new)
        return (prefill_flops(work.config, prompt) + further) / new
    if task == "per_token":
        return generated_flops_per_token(work.config, prompt, new)
    return training_flops_per_token(work.config, work.time)


def scenario_bytes(work: Workload, scenario: str, precision: str = "float32") -> int:
    """Peak memory of one process of a scenario, estimated in bytes."""
    c, N, width = work.config, work.config.parameter_count(), 8 if precision == "float64" else 4
    if "training_step" in SCENARIOS[scenario]:
        return INTERPRETER + 4 * width * N + activation_bytes(work, width)
    if scenario == "forward":
        layer = work.batch * c.n_head * work.time**2 * 3 + work.tokens * 12 * c.n_embd
        return INTERPRETER + width * (N + 2 * work.tokens * c.vocab_size + layer)
    length = sum(text_shape(work))
    rows = ROWS[scenario]
    cache = 2 * rows * c.n_layer * length * c.n_embd
    # weights, a second copy in the layout or precision that generates fastest, and logits of all positions (reference)
    return INTERPRETER + width * (2 * N + cache + 2 * rows * length * c.vocab_size)


def misfit(
    work: Workload, scenario: str, together: int, available: int | None, precision: str = "float32"
) -> str | None:
    """Why a scenario does not fit into memory, in one line; None if it fits.

    Args:
        together: processes that must run at once: two for a ratio, one for a single contender
        available: free bytes; None if unknown
    """
    needed = together * scenario_bytes(work, scenario, precision)
    if available is None or needed <= available:
        return None
    return (
        f"{work.name}/{scenario}: needs about {needed / 1e9:.1f} GB of memory for {together} processes side by side, "
        f"{available / 1e9:.1f} GB are free"
    )


def proof_misfit(
    work: Workload, available: int | None, precision: str = "float32", steps: int | None = 2
) -> str | None:
    """Why the proof of a workload does not fit into memory, in one line; None if it fits.

    Args:
        steps: see `bench.contenders.verify.checks_of`
    """
    small = work.of_shape(*work.proof_shape())
    # logits and loss are proven on the whole batch
    more = 3 * 8 * (work.tokens - small.tokens) * work.config.vocab_size
    needed = needed_bytes(small, precision, 1, work.proof_steps() if steps is None else steps) + more
    if available is None or needed <= available:
        return None
    return (
        f"{work.name}: its proof in float64 needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are "
        "free"
    )
