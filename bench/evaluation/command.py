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
            found = audit(evaluate, name=options.evaluate, seed=options.seed, tell=progress.stage)
    print_report(partial(show, found))
    if options.json is not None:
        write(options.json, result(found))
    return 0 if found.same else 1


def show(found: Audit, console: Any) -> None:
    """Print the report on a rich console."""
    writer = Writer(console)
    writer.line()
    writer.line(f"{found.name}, against the mean over all targets, in float64")
    sizes = ", ".join(f"{B} x {T}" for B, T in SHAPES)
    writer.line(f"batches of {sizes}, a quarter of their targets ignored; a model with dropout 0.1", style="dim")
    writer.line()
    writer.line(verdict(found), style="bold" if found.same else "bold red")
    writer.sections({"What is wrong": in_lines(found.faults), "Notes": [f"- {note}" for note in found.notes]})


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if found.same:
        return f"The same loss: {found.expected:.6f}, to {digits(found.error)}."
    return (
        f"Not the same loss: {found.found:.6f}, not {found.expected:.6f}; off by {scientific(found.error)}, where "
        f"{scientific(BUDGET)} is allowed."
    )


def result(found: Audit) -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "kind": "evaluation",
        "evaluation": found.name,
        "same": found.same,
        "found": found.found,
        "expected": found.expected,
        "budget": BUDGET,
        "faults": [asdict(one) for one in found.faults],
        "notes": found.notes,
    }
