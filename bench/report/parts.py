"""The parts by themselves: attention, loss, optimizer, tokenizers, batches, checkpoints."""

from __future__ import annotations

from typing import Any

from bench.report.chapter import Table, View
from bench.suite_tables import interval
from bench.tables import scientific, significant, size

WORDS = (
    "Parts of the models and of training by themselves, the readable one of each beside the fast ones. The error is "
    "the distance to the readable one's answer. Where parts were timed in turn, they have a ratio.",
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
            ", ".join(f"{base} × {interval(ratio)}" for base, ratio in part.get("ratios", {}).items()),
            size(part["memory"]),
            scientific(part["error"]),
        )
        for part in result["parts"]
    )
    return (View("", tables=(Table("Parts", head, rows, words=(0, 1)),)),) if rows else ()
