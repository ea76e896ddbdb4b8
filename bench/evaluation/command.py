"""`python -m bench compare --evaluate FILE.py:evaluate`: test a function that measures the validation loss."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Any

from bench.candidate.command import traceback_of
from bench.candidate.fault import in_lines
from bench.candidate.load_function import load_function
from bench.candidate.report import digits
from bench.environment import threads
from bench.evaluation.audit import BUDGET, SHAPES, Audit, audit
from bench.evaluation.completions import QUESTIONS, Choices, audit_choices, chooses
from bench.formatting import Writer, print_report, scientific
from bench.journal import write
from bench.settings import CompareEvaluation
from reference.cli.progress import Stages

STAGES = 2


def compare_evaluation(options: CompareEvaluation) -> int:
    """Test a function that measures the validation loss, and print the report.

    Returns 0 for the same loss, 1 for another. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    # what the user's code prints is no part of the report
    with traceback_of(options.traceback), redirect_stdout(sys.stderr):
        evaluate = load_function(options.evaluate, "evaluate", "evaluation")
        with Stages(STAGES) as progress, threads(options.threads):
            test = audit_choices if chooses(evaluate) else audit
            found = test(evaluate, name=options.evaluate, seed=options.seed, tell=progress.stage)
    print_report(partial(show, found))
    if options.json is not None:
        write(options.json, result(found))
    return 0 if found.same else 1


def show(found: Audit | Choices, console: Any) -> None:
    """Print the report on a rich console."""
    writer = Writer(console)
    writer.line()
    if isinstance(found, Choices):
        writer.line(f"{found.name}, against the completion with the least mean loss, in float64")
        writer.line(f"{QUESTIONS} questions with four completions of unequal length each", style="dim")
    else:
        writer.line(f"{found.name}, against the mean over all targets, in float64")
        sizes = ", ".join(f"{B} x {T}" for B, T in SHAPES)
        writer.line(f"batches of {sizes}, a quarter of their targets ignored; a model with dropout 0.1", style="dim")
    writer.line()
    writer.line(verdict(found), style="bold" if found.same else "bold red")
    writer.sections({"What is wrong": in_lines(found.faults), "Notes": [f"- {note}" for note in found.notes]})


def verdict(found: Audit | Choices) -> str:
    """The result in one sentence."""
    if isinstance(found, Choices):
        return verdict_on_choices(found)
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


def result(found: Audit | Choices) -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "kind": "evaluation",
        "evaluation": found.name,
        "same": found.same,
        "found": found.values if isinstance(found, Choices) else found.found,
        "expected": found.expected,
        "budget": BUDGET,
        "faults": [asdict(one) for one in found.faults],
        "notes": found.notes,
    }
