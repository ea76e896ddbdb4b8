"""The components by themselves: attention, loss, optimizer, tokenizers, batches, checkpoints."""

from __future__ import annotations

from typing import Any

from bench.formatting import interval, scientific, significant, size
from bench.report.chapter import Table, View
from bench.suite.tables import percent

WORDS = (
    "Components of the models and of training, each timed alone: the readable one beside the fast ones. The error is "
    "the distance to the readable one's answer. Components that do the same work were timed in turn, in a process of "
    "their own: their ratio is to the first of the group, with its interval and confidence.",
)

Result = dict[str, Any]


def views(result: Result) -> tuple[View, ...]:
    """One table, if there are any."""
    head = ("component", "at", "per second", "spread", "times as fast", "peak memory", "error")
    rows = tuple(
        (
            component["component"],
            component["workload"],
            f"{significant(component['per_second'])} {component['unit']}",
            f"±{100 * component['spread']:.0f} %",
            times_as_fast(component),
            size(component["memory"]),
            scientific(component["error"]),
        )
        for component in result["components"]
    )
    return (View("", tables=(Table("Components", head, rows, words=(0, 1)),)),) if rows else ()


def times_as_fast(component: Result) -> str:
    """The ratio to the first of those that it was timed with: 1 for that one, nothing if there were none."""
    words = (
        "1" if base == component["component"] else f"{base} × {interval(ratio)}, {percent(ratio['confidence'])}"
        for base, ratio in component.get("ratios", {}).items()
    )
    return ", ".join(words)
