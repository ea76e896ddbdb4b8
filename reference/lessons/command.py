"""A lesson as a command: `python -m reference.lessons.mlp`, whose --help prints the docstring of the lesson."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def parser(lesson: str, text: str | None) -> argparse.ArgumentParser:
    """The arguments of a lesson: --help alone.

    Args:
        lesson: the name of its module, without the package
        text: the docstring of its file
    """
    return argparse.ArgumentParser(
        prog=f"python -m {__package__}.{lesson}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def start(lesson: str, text: str | None, main: Callable[[], object]) -> None:
    """Run a lesson that takes no arguments; a mistake is one line on standard error, with status 2."""
    parser(lesson, text).parse_args()
    try:
        main()
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
