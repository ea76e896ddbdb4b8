"""`python -m bench compare --batches FILE.py:build_batches`: test a data loader and print the report."""

from __future__ import annotations

from bench.batches.audit import audit
from bench.batches.report import report
from bench.settings import CompareBatches
from bench.user_code.command import finish, tested
from bench.user_code.load_function import load_function


def compare_batches(options: CompareBatches) -> int:
    """Test a data loader and print the report.

    Returns 0 if nothing is wrong, else 1. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    with tested(options, stages=5) as tell:
        build = load_function(options.batches, "build_batches", "batches")
        found = audit(build, name=options.batches, tell=tell)
    return finish(report(found), options, found.to_json())
