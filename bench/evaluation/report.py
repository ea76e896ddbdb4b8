"""The result of testing a validation loss."""

from __future__ import annotations

from bench.evaluation.audit import BUDGET, SHAPES, Audit
from bench.formatting import digits, scientific
from bench.user_code.fault import in_lines
from bench.user_code.report import Report


def report(found: Audit) -> Report:
    """The report of an audit."""
    sizes = ", ".join(f"{B} x {T}" for B, T in SHAPES)
    return Report(
        found.name,
        "against the mean over all targets, in float64",
        f"batches of {sizes}, a quarter of their targets ignored; a model with dropout 0.1",
        verdict(found),
        found.same,
        lambda width: {"What is wrong": in_lines(found.faults)},
        notes=found.notes,
    )


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if found.same:
        return f"The same loss: {found.expected:.6f}, to {digits(found.error)}."
    return (
        f"Not the same loss: {found.found:.6f}, not {found.expected:.6f}; off by {scientific(found.error)}, where "
        f"{scientific(BUDGET)} is allowed."
    )
