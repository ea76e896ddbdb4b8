"""`python -m bench compare --step FILE.py:build_step`: test a training step and print the report."""

from __future__ import annotations

from bench.settings import CompareStep
from bench.training_step.audit import audit
from bench.training_step.report import report
from bench.user_code.command import finish, tested
from bench.user_code.load_function import load_function


def compare_step(options: CompareStep) -> int:
    """Test a training step and print the report.

    Returns 0 for the same step, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    with tested(options, stages=4) as tell:
        build_step = load_function(options.step, "build_step", "step")
        found = audit(
            build_step, name=options.step, unequal=options.unequal, ranks=options.ranks, seed=options.seed, tell=tell
        )
    return finish(report(found), options, found.to_json())
