"""Scaling: speed and memory as one size grows."""

from __future__ import annotations

from typing import Any

from bench.formatting import interval, size
from bench.report.charts import Axis, curves, ordered
from bench.report.section import Table, View
from bench.report.sections.ablation import rate
from bench.suite.result_file import Result

WORDS = (
    "A whole training step of a small model as one size grows: with explicit attention and the plain loss (plain), "
    "with scaled_dot_product_attention instead (sdpa), and with the loss in chunks instead (fused_loss). At each point "
    "each of the three runs in a process of its own, and they take turns. An interval of three rounds has 75 % "
    "confidence, of four 88 %, of five 94 %, of more 95 %. In the drawing the bar is the interval of the ratio to "
    "plain, times plain's tokens/s.",
)
ACROSS = {
    "time": "tokens in a sequence",
    "batch": "sequences in a batch",
    "depth": "layers (n_layer)",
    "width": "embedding width (n_embd)",
    "vocabulary": "tokens in the vocabulary",
}


def views(result: Result) -> tuple[View, ...]:
    """A view for each size that grows."""
    axes = ordered(point["axis"] for point in result["scaling"])
    return tuple(view([point for point in result["scaling"] if point["axis"] == axis], axis) for axis in axes)


def view(points: list[dict[str, Any]], axis: str) -> View:
    """The curves of one size and their table."""
    across = ACROSS.get(axis, axis)
    rates = [
        {
            "at": point["value"],
            "kind": point["contender"],
            "value": point["tokens_per_second"],
            "shown": rate(point),
            **bounds(point, points),
        }
        for point in points
    ]
    memory = [
        {
            "at": point["value"],
            "kind": point["contender"],
            "value": point["memory"],
            "shown": size(point["memory"]),
            "low": None,
            "high": None,
        }
        for point in points
        if point["memory"]
    ]
    charts = [curves(f"Speed over {axis}", rates, across, Axis("tokens per second", log=steep(rates)))]
    if memory:
        charts.append(curves(f"Memory over {axis}", memory, across, Axis("peak memory", log=steep(memory), bytes=True)))
    return View(axis, tuple(charts), (table(points, axis),))


def bounds(point: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, float | None]:
    """The interval of a point's ratio to its base, in tokens/s of the base; none for the base itself."""
    for base, ratio in point["ratios"].items():
        if base != point["contender"]:
            for other in points:
                if (other["contender"], other["value"]) == (base, point["value"]):
                    return {end: ratio[end] * other["tokens_per_second"] for end in ("low", "high")}
    return {"low": None, "high": None}


def steep(rows: list[dict[str, Any]]) -> bool:
    """Whether only a logarithmic axis shows the small numbers: the largest is over 8 times the smallest."""
    found = [row["value"] for row in rows]
    return bool(max(found) > 8 * min(found))


def table(points: list[dict[str, Any]], axis: str) -> Table:
    """A row for each point of each curve."""
    base = next((anchor for point in points for anchor in point["ratios"]), None)
    rows = [
        (
            str(point["value"]),
            point["contender"],
            interval(point["ratios"][base]) if base in point["ratios"] else "n/a",
            str(sum(point["rounds"])),
            rate(point),
            size(point["memory"]),
            f"{max(point['parity'].values()):.2f}",
        )
        for point in points
    ]
    head = (axis, "contender", f"times {base}", "rounds", "tokens/s", "peak memory", "error / budget")
    return Table(f"Scaling over {axis}", head, tuple(rows), words=(0, 1))
