"""The result of testing a validation loss."""

from __future__ import annotations

from bench.evaluation.audit import BUDGET, SHAPES, Audit
from bench.evaluation.completions import QUESTIONS, Choices
from bench.formatting import digits, scientific
from bench.user_code.fault import in_lines
from bench.user_code.report import Report


def report(found: Audit | Choices) -> Report:
    """The report of an audit."""
    sizes = ", ".join(f"{B} x {T}" for B, T in SHAPES)
    against = "against the mean over all targets, in float64"
    setting = f"batches of {sizes}, a quarter of their targets ignored; a model with dropout 0.1"
    if isinstance(found, Choices):
        against = "against the completion with the least mean loss, in float64"
        setting = f"{QUESTIONS} questions with four completions of unequal length each"
    return Report(
        found.name,
        against,
        setting,
        verdict_on_choices(found) if isinstance(found, Choices) else verdict(found),
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


def verdict_on_choices(found: Choices) -> str:
    """The result of choices between completions in one sentence."""
    number, way = len(found.values), "sum" if found.by_sum else "mean"
    if found.same and found.chosen:
        return f"The same choices: in all {number} questions the completion with the least {way} of losses."
    if found.same:
        return f"The same losses: the {way} over tokens of all {number} completions."
    return f"Not the same {'choices' if found.chosen else 'losses'}: {found.different} of {number} differ."
