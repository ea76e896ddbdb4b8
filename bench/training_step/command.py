"""`python -m bench compare --step FILE.py:build_step`: test a training step and print the report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Any

from bench.candidate.command import traceback_of
from bench.candidate.load_function import load_function
from bench.environment import threads
from bench.formatting import print_report
from bench.journal import write
from bench.settings import CompareStep
from bench.training_step.audit import BUDGET, Audit, audit
from bench.training_step.report import show, text, verdict
from reference.cli.progress import Stages

STAGES = 4


def compare_step(options: CompareStep) -> int:
    """Test a training step and print the report.

    Returns 0 for the same step, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    # what the user's code prints is no part of the report
    with traceback_of(options.traceback), redirect_stdout(sys.stderr):
        build_step = load_function(options.step, "build_step", "step")
        with Stages(STAGES) as progress, threads(options.threads):
            found = audit(
                build_step,
                name=options.step,
                unequal=options.unequal,
                ranks=options.ranks,
                seed=options.seed,
                tell=progress.stage,
            )
    print_report(partial(show, found))
    if options.json is not None:
        write(options.json, result(found))
    if options.html is not None:
        from bench.candidate.page import save, text_page  # Jinja2 takes a tenth of a second

        about = "20 updates of the weights, against reference/training/step.py in float64"
        save(text_page(found.name, about, verdict(found), found.same, text(found)), options.html)
    return 0 if found.same else 1


def result(found: Audit) -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "kind": "training_step",
        "step": found.name,
        "same": found.same,
        "budget": BUDGET,
        "ranks": found.ranks,
        "runs": [
            {
                "micro_batches": run.title,
                "same": run.same,
                "errors": run.errors,
                "ranks_apart": run.recorded.apart,
                "first_wrong": run.first_wrong,
                "worst": run.worst,
                "never_updated": run.never_moved,
                "causes": [
                    {
                        "mistakes": [mistake.what for mistake in one.mistakes],
                        "schedule": one.schedule,
                        "error": one.error,
                        "learning_rates": one.rates,
                    }
                    for one in run.explanations
                ],
            }
            for run in found.runs
        ],
        "notes": found.notes,
    }
