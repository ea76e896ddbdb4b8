"""The ablation: each rung alone, left out of the best recipe, and on top of the rungs before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.formatting import interval, significant, size
from bench.report.charts import Axis, Dot, dots, ordered
from bench.report.result_keys import ABLATION, LEAVE_ONE_OUT
from bench.report.section import Table, View
from bench.suite.result_file import Result
from bench.suite.tables import basis

KINDS = {"alone": "alone", LEAVE_ONE_OUT: "leave-one-out", "cumulative": "cumulative"}
WORDS = (
    "A rung is one optimization with one claim. It is measured three times. Alone: PLAIN, which has no rung, with this "
    "one, against PLAIN. Leave-one-out: the best recipe of this device against itself without the rung; a rung that "
    "the best recipe lacks is added to it instead. Cumulative: all rungs up to this one against PLAIN. Each recipe "
    "runs in a process of its own, the processes take turns, and a ratio compares times that were taken next to each "
    "other. The bar through a point is its interval.",
    "Right of the line is faster. A rung that does not pay on this device keeps its row. Tokens/s and memory are those "
    "of PLAIN with the rung, of the best recipe without it, and of all rungs up to it. Memory is the peak of the "
    "recipe's own process, without interpreter and libraries.",
    "Two rungs check the method: a key-value cache changes nothing in a training step, and a fused AdamW changes "
    "nothing in generation. Their distance from 1 is the error of the method. A process keeps its place in memory for "
    "as long as it runs, and that place can change all its times by 10 %. Intervals over several launches of the "
    "process include this; those of one launch do not. The title of the table gives the confidence. All recipes were "
    "proven on a small model with a batch of 3 x 48, the best one also at the sizes at which it is timed.",
)


def views(result: Result) -> tuple[View, ...]:
    """A view for each task."""
    tasks = ordered(task for row in result[ABLATION] for task in row["tasks"])
    return tuple(view(result[ABLATION], task) for task in tasks)


def view(ablation: list[dict[str, Any]], task: str) -> View:
    """The ratios, tokens/s and memory of one task."""
    name = f"{ablation[0]['workload']}: {task.replace('_', ' ')}"
    found = list(measured(ablation, task))
    if not found:
        return View(name, tables=(ratios_table(ablation, task),))
    ratios = [
        Dot(rung, kind, one["ratio"]["median"], interval(one["ratio"]), one["ratio"]["low"], one["ratio"]["high"])
        for rung, kind, one in found
    ]
    rates = [Dot(rung, kind, one["tokens_per_second"], rate(one)) for rung, kind, one in found]
    charts = [
        dots(f"Speedup, {name}", ratios, Axis("times as fast", log=True, rule=1.0)),
        dots(f"Speed, {name}", rates, Axis("tokens per second")),
    ]
    memory = [Dot(rung, kind, one["memory"], size(one["memory"])) for rung, kind, one in found if one["memory"]]
    if memory:
        charts.append(dots(f"Memory, {name}", memory, Axis("peak memory", bytes=True)))
    return View(name, tuple(charts), (ratios_table(ablation, task), rates_table(ablation, task)))


def measured(ablation: list[dict[str, Any]], task: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Rung, kind and measurement of each recipe that was timed for this task."""
    for row in ablation:
        for kind, words in KINDS.items():
            one = row["tasks"].get(task, {}).get(kind)
            if one is not None:
                yield row["rung"], words, one


def ratios_table(ablation: list[dict[str, Any]], task: str) -> Table:
    """A row for each rung: its ratios, its proof, and where it does not pay."""
    head = ("rung", *KINDS.values(), "error / budget", "where it does not pay")
    rows = []
    for row in ablation:
        found = row["tasks"].get(task, {})
        cells = ("n/a" if found.get(kind) is None else interval(found[kind]["ratio"]) for kind in KINDS)
        over = f"{max(row['parity'].values()):.2f}" if row["parity"] else "n/a"
        rows.append((row["rung"], *cells, over, row["loses"]))
    rest = next((basis(one) for _, _, one in measured(ablation, task)), "no rounds")
    title = f"{ablation[0]['workload']}, {task.replace('_', ' ')}: times as fast, with intervals of {rest}"
    return Table(title, head, tuple(rows), words=(0, 5))


def rates_table(ablation: list[dict[str, Any]], task: str) -> Table:
    """A row for each rung: tokens/s and peak memory of the recipes that were timed."""
    head = ("rung", *(f"{what}, {words}" for what in ("tokens/s", "memory") for words in KINDS.values()))
    rows = []
    for row in ablation:
        found = [row["tasks"].get(task, {}).get(kind) for kind in KINDS]
        rates = ("n/a" if one is None else rate(one) for one in found)
        memory = ("n/a" if one is None else size(one["memory"]) for one in found)
        rows.append((row["rung"], *rates, *memory))
    return Table(f"{ablation[0]['workload']}, {task.replace('_', ' ')}: speed and peak memory", head, tuple(rows))


def rate(one: dict[str, Any]) -> str:
    """Tokens per second with their spread."""
    return f"{significant(one['tokens_per_second'])} ±{100 * one['spread']:.0f} %"
