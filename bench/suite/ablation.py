"""Ablation of every rung: alone on PLAIN, leave-one-out from the best recipe, and cumulative in ladder order.

If the device's best recipe lacks a rung, the rung is added to it; then the leave-one-out ratio shows the loss.

All recipes are timed together, or in groups if memory is short. PLAIN and the best recipe are in every group, and each
ratio is to the anchor in the same group. A rung that does not pay keeps its row.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from bench.contenders import ABLATED
from bench.contenders.gate import ParityGate, proof_key
from bench.timing.interleave import Timings
from bench.timing.ratios import Ratio, spread
from bench.workloads.scenarios import SCENARIOS, tokens_of
from bench.workloads.workload import Workload
from optimized import FULL, RUNGS, Recipe
from reference.config import GPTConfig

ANCHORS = ("plain", "optimized")

# Two dozen recipes, half of them compiled, are proven on a small model. Its vocabulary needs padding, and it is as wide
# as the timed model, since the best recipe depends on the width. The best recipe is also proven at the timed size, with
# the other whole models.
PROOF = Workload("ladder", GPTConfig(block_size=64, vocab_size=1000, n_layer=2, n_head=4, n_embd=256), batch=3, time=48)

KINDS = ("alone", "leave_one_out", "cumulative")

# Rungs that are not ablated, and why.
NOT_ABLATED = {
    "ddp": "takes several processes, and the suite times one",
    "tf32": "is not in FULL, which computes in bfloat16; the roofline of a CUDA device has the rate of its products",
}


def ladder(best: Recipe) -> tuple[str, ...]:
    """Names of all recipes of the ablation, the anchors first, each recipe once.

    Args:
        best: the best recipe of the device at the timed size
    """
    names = (*ANCHORS, *(name for rung in ABLATED for kind in KINDS for name in pair(rung, kind, best)))
    return tuple(dict.fromkeys(names))


def pair(rung: str, kind: str, best: Recipe) -> tuple[str, str]:
    """The contenders (slower, faster) of a ratio; named as if the rung pays."""
    if kind == "alone":
        return "plain", rung
    if kind == "leave_one_out":
        return (f"without-{rung}", "optimized") if rung in best else ("optimized", f"with-{rung}")
    # the ladder up to its first rung is that rung alone, and up to its last it is the best recipe
    names = {ABLATED[0]: ABLATED[0], ABLATED[-1]: "optimized"}
    return "plain", names.get(rung, f"upto-{rung}")


def effects(
    timings: dict[str, dict[str, Timings]], work: Workload, scenario: str, rung: str, best: Recipe
) -> dict[str, Any]:
    """The three ratios of a rung in each task of a scenario, as `bench.suite.result_file` describes it."""

    def one(task: str, kind: str) -> dict[str, Any] | None:
        slower, faster = pair(rung, kind, best)
        if slower not in timings or faster not in timings:
            return None  # one of them has no parity pass
        # the contender is the recipe with its own row; the other one is an anchor
        contender, anchor = (slower, faster) if faster in ANCHORS and kind == "leave_one_out" else (faster, slower)
        ours = timings[contender][task]
        times: Ratio = ours.ratios[anchor] if anchor == slower else ours.ratios[anchor].inverse()
        return {
            "contender": contender,
            "ratio": asdict(times),
            "tokens_per_second": tokens_of(work, scenario, task) / median(ours.seconds),
            "spread": spread(ours.seconds),
            "rounds": ours.rounds,
            "memory": ours.memory.bytes,
            "compile": asdict(ours.compiled),
        }

    return {task: {kind: one(task, kind) for kind in KINDS} for task in SCENARIOS[scenario]}


def row(rung: str, work: Workload, tasks: dict[str, Any], gate: ParityGate, best: Recipe) -> dict[str, Any]:
    """The row of a rung."""
    found = gate.found.get(proof_key(PROOF, rung))
    return {
        "rung": rung,
        "claim": RUNGS[rung].claim,
        "loses": RUNGS[rung].loses,
        "workload": work.name,
        "batch": work.batch,
        "time": work.time,
        "in_full": rung in FULL,
        "in_best": rung in best,
        "parity": found and found.over,
        "tasks": tasks,
    }
