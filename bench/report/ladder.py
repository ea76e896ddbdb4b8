"""The ladder: what every rung costs and buys, alone, leave-one-out, cumulative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.formatting import interval, significant, size
from bench.report.chapter import Table, View
from bench.report.charts import Axis, Dot, dots, ordered
from bench.suite.tables import basis

KINDS = {"alone": "alone", "leave_one_out": "leave-one-out", "cumulative": "cumulative"}
WORDS = (
    "A rung is one optimization with one claim, and is ablated in three ways. Alone: PLAIN, which has no rung, with "
    "this one against PLAIN. Leave-one-out: the best recipe of this device against itself without the rung; a rung "
    "that it lacks is added to it instead. Cumulative: the ladder up to this rung against PLAIN. All recipes run in "
    "turn, each in a process of its own, and every ratio comes from times that were taken next to each other; the bar "
    "through a point is its interval.",
    "Right of the line is faster. A rung that does not pay on this device keeps its row. Rates and memory are those "
    "of PLAIN with the rung, of the best recipe without it, and of the ladder up to it; memory is the peak of the "
    "recipe's own process, less what interpreter and libraries take.",
    "Two rungs are a check of the method: a cache for keys and values changes nothing in a training step, nor a fused "
    "AdamW in a text. How far these are from 1 shows how far to trust the others. Where a process lies in memory stays "
    "for as long as it runs, and can move all its times by a tenth: the intervals of several launches of every process "
    "know that, those of one launch do not. How surely an interval holds its ratio stands in the title of the table. "
    "All recipes were proven on a small model with a batch of 3 x 48; the best one also at the sizes of its peers.",
)

Result = dict[str, Any]


def views(result: Result) -> tuple[View, ...]:
    """One for each task."""
    tasks = ordered(task for entry in result["ablation"] for task in entry["tasks"])
    return tuple(view(result["ablation"], task) for task in tasks)


def view(ablation: list[dict[str, Any]], task: str) -> View:
    """The ablation in one task."""
    name = f"{ablation[0]['workload']}: {task.replace('_', ' ')}"
    found = list(measured(ablation, task))
    if not found:
        return View(name, tables=(ablation_table(ablation, task),))
    ratios = [
        Dot(rung, kind, one["ratio"]["median"], interval(one["ratio"]), one["ratio"]["low"], one["ratio"]["high"])
        for rung, kind, one in found
    ]
    rates = [Dot(rung, kind, one["tokens_per_second"], rate(one)) for rung, kind, one in found]
    charts = [
        dots(f"Ablation, {name}", ratios, Axis("times as fast", log=True, rule=1.0)),
        dots(f"Speed, {name}", rates, Axis("tokens per second")),
    ]
    memory = [Dot(rung, kind, one["memory"], size(one["memory"])) for rung, kind, one in found if one["memory"]]
    if memory:
        charts.append(dots(f"Memory, {name}", memory, Axis("peak memory", bytes=True)))
    return View(name, tuple(charts), (ablation_table(ablation, task), rates_table(ablation, task)))


def measured(ablation: list[dict[str, Any]], task: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Rung, kind in words, and what was measured, of all that was."""
    for entry in ablation:
        for kind, words in KINDS.items():
            one = entry["tasks"].get(task, {}).get(kind)
            if one is not None:
                yield entry["rung"], words, one


def ablation_table(ablation: list[dict[str, Any]], task: str) -> Table:
    """A row for each rung: its three ratios, its proof, and where it does not pay."""
    head = ("rung", *KINDS.values(), "error / budget", "where it does not pay")
    rows = []
    for entry in ablation:
        found = entry["tasks"].get(task, {})
        cells = ("n/a" if found.get(kind) is None else interval(found[kind]["ratio"]) for kind in KINDS)
        over = f"{max(entry['parity'].values()):.2f}" if entry["parity"] else "n/a"
        rows.append((entry["rung"], *cells, over, entry["loses"]))
    rest = next((basis(one) for _, _, one in measured(ablation, task)), "no rounds")
    title = f"{ablation[0]['workload']}, {task.replace('_', ' ')}: times as fast, with intervals of {rest}"
    return Table(title, head, tuple(rows), words=(0, 5))


def rates_table(ablation: list[dict[str, Any]], task: str) -> Table:
    """A row for each rung: tokens per second and memory of its three recipes."""
    head = ("rung", *(f"{what}, {words}" for what in ("tokens/s", "memory") for words in KINDS.values()))
    rows = []
    for entry in ablation:
        found = [entry["tasks"].get(task, {}).get(kind) for kind in KINDS]
        rates = ("n/a" if one is None else rate(one) for one in found)
        memory = ("n/a" if one is None else size(one["memory"]) for one in found)
        rows.append((entry["rung"], *rates, *memory))
    return Table(f"{ablation[0]['workload']}, {task.replace('_', ' ')}: speed and peak memory", head, tuple(rows))


def rate(one: dict[str, Any]) -> str:
    """Tokens per second with their spread."""
    return f"{significant(one['tokens_per_second'])} ±{100 * one['spread']:.0f} %"
