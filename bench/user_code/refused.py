"""Run a user's code: an exception becomes one line with the file and line of its own code."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from bench.formatting import one_line
from bench.user_code.load_function import STOPS

BENCH = Path(__file__).parents[1]
ROOMS = ("user_code", "candidate", "numerics", "training_step", "text_generation", "batches", "evaluation")
# the audits' own code, their context managers, and the reference model that they give to the user's
FOLDERS = (*(BENCH / room for room in ROOMS), BENCH.parent / "reference")
OURS = (*(str(folder) + os.sep for folder in FOLDERS), contextlib.__file__)
LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name]).resolve()) + os.sep for name in ("stdlib", "purelib", "platlib")
)


class Refused(ValueError):
    """A candidate that cannot be tested; the message says why, in one line."""


def called(function: Callable[[], Any], what: str, who: str = "candidate") -> Any:
    """Run a user's code; an exception becomes `Refused`, with `what` raised it and where, in one line."""
    try:
        return function()
    except (Refused, *STOPS):
        raise
    except BaseException as error:  # as pytest's Skipped
        raise Refused(f"{who}: {what} raised {one_line(error)}{place_in_own_code(error)}") from error


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn every exception inside into a ValueError of one line."""
    try:
        yield
    except STOPS:
        raise
    except BaseException as error:
        place = place_in_own_code(error)
        if isinstance(error, ValueError) and (isinstance(error, Refused) or not place):
            raise  # a line of ours
        raise Refused(f"candidate: {one_line(error)}{place}; --traceback shows more") from error


def place_in_own_code(error: BaseException) -> str:
    """ " (FILE, line N)" of the innermost frame in the user's code, else in a library other than torch; else ""."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<", *OURS))]
    own = [f for f in frames if not in_library(f.filename)]
    others = [f for f in frames if in_library(f.filename) and f"{os.sep}torch{os.sep}" not in f.filename]
    if isinstance(error, SyntaxError) or not (own or others):
        return ""
    frame = (own or others)[-1]
    return f" ({shown(frame.filename)}, line {frame.lineno})"


def innermost_own_frame() -> str:
    """ "FILE, line N" of the user's code that is running; "" if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(("<", *OURS)) and not in_library(filename):
            return f"{shown(filename)}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def is_ours(filename: str) -> bool:
    """Whether a file is of the audits, or of the readable model that they give to the user."""
    return filename.startswith(OURS)


@cache
def in_library(filename: str) -> bool:
    """Whether a file is of Python itself or of an installed package."""
    return str(Path(filename).resolve()).startswith(LIBRARIES) or "site-packages" in filename


def shown(filename: str) -> str:
    """A path from the current folder, if it is below that; else the whole path."""
    path = Path(filename).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
