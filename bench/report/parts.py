"""The parts by themselves: attention, loss, optimizer, tokenizers, batches, checkpoints."""

from __future__ import annotations

from typing import Any

from bench.formatting import scientific, significant, size
from bench.report.chapter import Table, View
from bench.suite.tables import interval, percent

WORDS = (
    "Parts of the models and of training by themselves, the readable one of each beside the fast ones. The error is "
    "the distance to the readable one's answer. Those that do the same work were timed in turn, in a process of their "
    "own: their ratio is to the first of them, with its interval and how surely that holds it.",
)

Result = dict[str, Any]


def views(result: Result) -> tuple[View, ...]:
    """One table, if there are any."""
    head = ("part", "at", "per second", "spread", "times as fast", "peak memory", "error")
    rows = tuple(
        (
            part["part"],
            part["workload"],
            f"{significant(part['per_second'])} {part['unit']}",
            f"±{100 * part['spread']:.0f} %",
            times_as_fast(part),
            size(part["memory"]),
            scientific(part["error"]),
        )
        for part in result["parts"]
    )
    return (View("", tables=(Table("Parts", head, rows, words=(0, 1)),)),) if rows else ()


def times_as_fast(part: Result) -> str:
    """The ratio to the first of those that it was timed with: 1 for that one, nothing if there were none."""
    words = (
        "1" if base == part["part"] else f"{base} × {interval(ratio)}, {percent(ratio['confidence'])}"
        for base, ratio in part.get("ratios", {}).items()
    )
    return ", ".join(words)
