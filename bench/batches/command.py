"""`python -m bench compare --batches FILE.py:build_batches`: test a data loader and print the report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Any

from bench.batches.audit import Audit, audit
from bench.batches.report import show
from bench.candidate.command import traceback_of
from bench.candidate.load_function import load_function
from bench.formatting import print_report
from bench.journal import write
from bench.settings import CompareBatches
from reference.cli.progress import Stages

STAGES = 5


def compare_batches(options: CompareBatches) -> int:
    """Test a data loader and print the report.

    Returns 0 if nothing is wrong, else 1. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    # what the user's code prints is no part of the report
    with traceback_of(options.traceback), redirect_stdout(sys.stderr):
        build = load_function(options.batches, "build_batches", "batches")
        with Stages(STAGES) as progress:
            found = audit(build, name=options.batches, tell=progress.stage)
    print_report(partial(show, found))
    if options.json is not None:
        write(options.json, result(found))
    return 0 if found.right else 1


def result(found: Audit) -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "kind": "batches",
        "loader": found.name,
        "right": found.right,
        "takes": sorted(found.takes),
        "order": found.kind,
        "batches_per_epoch": found.batches or None,
        "faults": [asdict(one) for one in found.faults],
        "notes": found.notes,
    }
