"""Something wrong in a user's code, with what shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Something wrong, what shows it, and what to do."""

    what: str
    shown_by: str
    remedy: str


def in_lines(faults: Sequence[Fault]) -> list[str]:
    """Faults for a report, three lines each."""
    return [line for one in faults for line in (one.what, f"  shown by: {one.shown_by}", f"  fix: {one.remedy}")]


def number_of(faults: Sequence[Fault]) -> str:
    """ "one fault", "2 faults" """
    return "one fault" if len(faults) == 1 else f"{len(faults)} faults"
