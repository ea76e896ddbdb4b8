"""What the commands that test a user's code share: where its output goes, how the report is printed and written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from traceback import print_exception
from typing import Any

from bench.environment import threads
from bench.formatting import print_report
from bench.journal import write
from bench.settings import UserCode
from bench.user_code.page import save, text_page
from bench.user_code.report import Report
from reference.cli.progress import Stages


@contextmanager
def user_code(traceback: bool) -> Iterator[None]:
    """Inside the block, standard output goes to standard error: what the user's code prints is no part of the report.

    Args:
        traceback: whether the traceback of a ValueError is printed before it becomes one line
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except ValueError as error:
        if traceback:
            print_exception(error)
        raise


@contextmanager
def tested(options: UserCode, stages: int) -> Iterator[Callable[[str], None]]:
    """`user_code` with a line of progress: yields the function that begins the next of the stages."""
    with user_code(options.traceback), Stages(stages) as progress, threads(options.threads):
        yield progress.stage


def finish(report: Report, options: UserCode, values: dict[str, Any], page: str | None = None) -> int:
    """Print a report and write the files that were asked for; returns the exit status: 0 if nothing is wrong, else 1.

    Args:
        values: of --json
        page: of --html; None for the report's text

    Raises ValueError, one line, for a file that cannot be written.
    """
    print_report(report.show)
    if options.json is not None:
        write(options.json, values)
    if options.html is not None:
        save(text_page(report) if page is None else page, options.html)
    return 0 if report.same else 1
