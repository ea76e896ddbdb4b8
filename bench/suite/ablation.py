"""The three prices of every rung: alone on PLAIN, left out of the best recipe, and the ladder up to it.

A rung that the best recipe of this device does without is added to it instead, and its price says what that loses.

The recipes of the ladder sit together, or in groups where memory does not hold all: PLAIN and the best recipe are then
in every group, and a price is a ratio to the one of them that sat beside it, of times that were taken next to each
other.
A rung that does not pay keeps its row.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from bench.contenders import PRICED
from bench.contenders.gate import Passes, place
from bench.timing.interleave import Turns
from bench.timing.ratios import Ratio, spread
from bench.workloads.scenarios import SITTINGS, named, tokens_of
from bench.workloads.workload import Workload
from optimized import FULL, RUNGS, Recipe
from reference.config import GPTConfig

ANCHORS = ("plain", "optimized")

# Two dozen recipes, half of them compiled, are proven on a small model, whose vocabulary has to be padded, and which is
# as wide as the one that is timed, since the best recipe goes by the width; that one is also proven at the size that is
# timed, with the other whole models.
PROOF = Workload("ladder", GPTConfig(block_size=64, vocab_size=1000, n_layer=2, n_head=4, n_embd=256), batch=3, time=48)

KINDS = ("alone", "without", "cumulative")

# Rungs without prices, and why.
UNPRICED = {
    "ddp": "takes several processes, and the suite times one",
    "tf32": "is no part of FULL, which computes in bfloat16; what its products do is in the roofline of a CUDA device",
}


def ladder(best: Recipe) -> tuple[str, ...]:
    """Everybody who is needed, the anchors first; recipes that are the same once.

    Args:
        best: the best recipe of the device at the size that is timed
    """
    names = (*ANCHORS, *(name for rung in PRICED for kind in KINDS for name in pair(rung, kind, best)))
    return tuple(dict.fromkeys(names))


def pair(rung: str, kind: str, best: Recipe) -> tuple[str, str]:
    """(slower, faster) of a price, if the rung pays."""
    if kind == "alone":
        return "plain", rung
    if kind == "without":
        return (f"without-{rung}", "optimized") if rung in best else ("optimized", f"with-{rung}")
    # the first rung of the ladder is alone on PLAIN, and with the last it is the best recipe
    names = {PRICED[0]: PRICED[0], PRICED[-1]: "optimized"}
    return "plain", names.get(rung, f"upto-{rung}")


def price(turns: dict[str, dict[str, Turns]], workload: str, sitting: str, rung: str, best: Recipe) -> dict[str, Any]:
    """What a rung costs or buys in each task of a sitting, as `bench.suite.result_file` describes it."""
    work = named(workload)

    def one(task: str, kind: str) -> dict[str, Any] | None:
        slower, faster = pair(rung, kind, best)
        if slower not in turns or faster not in turns:
            return None  # one of them has no parity pass
        # the recipe that the price is named after; the other is an anchor
        contender, anchor = (slower, faster) if faster in ANCHORS and kind == "without" else (faster, slower)
        ours = turns[contender][task]
        times: Ratio = ours.ratios[anchor] if anchor == slower else ours.ratios[anchor].turned()
        return {
            "contender": contender,
            "ratio": asdict(times),
            "tokens_per_second": tokens_of(work, sitting, task) / median(ours.seconds),
            "spread": spread(ours.seconds),
            "rounds": ours.rounds,
            "memory": ours.memory.bytes,
            "compile": asdict(ours.compiled),
        }

    return {task: {kind: one(task, kind) for kind in KINDS} for task in SITTINGS[sitting]}


def row(rung: str, workload: str, tasks: dict[str, Any], passes: Passes, best: Recipe) -> dict[str, Any]:
    """The row of a rung."""
    found = passes.found.get(place(PROOF, rung))
    return {
        "rung": rung,
        "claim": RUNGS[rung].claim,
        "loses": RUNGS[rung].loses,
        "workload": workload,
        "batch": named(workload).batch,
        "time": named(workload).time,
        "in_full": rung in FULL,
        "in_best": rung in best,
        "parity": found and found.over,
        "tasks": tasks,
    }
