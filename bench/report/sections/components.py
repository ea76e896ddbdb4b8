"""Components timed by themselves: attention, loss, optimizer, tokenizers, batches, checkpoints."""

from __future__ import annotations

from bench.formatting import interval, scientific, significant, size
from bench.report.result_keys import COMPONENT, COMPONENTS
from bench.report.section import Table, View
from bench.suite.result_file import Result
from bench.suite.tables import percent

WORDS = (
    "Components of the models and of training by themselves, the readable version beside the fast ones. The error is "
    "the relative L2 distance to the readable version's output. Components that do the same work were timed in turn in "
    "one process: the ratio is to the first of them, with its interval and confidence.",
)


def views(result: Result) -> tuple[View, ...]:
    """One table; none without components."""
    head = ("component", "workload", "per second", "spread", "times as fast", "peak memory", "error")
    rows = tuple(
        (
            component[COMPONENT],
            component["workload"],
            f"{significant(component['per_second'])} {component['unit']}",
            f"±{100 * component['spread']:.0f} %",
            times_as_fast(component),
            size(component["memory"]),
            scientific(component["error"]),
        )
        for component in result[COMPONENTS]
    )
    return (View("", tables=(Table("Components", head, rows, words=(0, 1)),)),) if rows else ()


def times_as_fast(component: Result) -> str:
    """The ratio to the first component of its group, 1 for the first itself; empty for a component timed alone."""
    words = (
        "1" if base == component[COMPONENT] else f"{base} × {interval(ratio)}, {percent(ratio['confidence'])}"
        for base, ratio in component.get("ratios", {}).items()
    )
    return ", ".join(words)
