"""The report of every test of a user's code: name, setting, verdict, a table, sections of lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.formatting import WIDTH, Fitted, Writer, as_text


@dataclass(frozen=True)
class Report:
    """What a test found, in words."""

    name: str  # of the user's function
    against: str  # what it was compared with
    setting: str  # sizes and hyperparameters
    verdict: str  # the result in one sentence
    same: bool  # whether nothing is wrong
    sections: Callable[[int], Mapping[str, Sequence[str]]]  # width in columns -> lines by title
    table: Any = None  # a rich table
    notes: Sequence[str] = ()

    def show(self, console: Any) -> None:
        """Print it on a rich console."""
        writer = Writer(console)
        writer.line()
        writer.line(f"{self.name}, {self.against}")
        writer.line(self.setting, style="dim")
        writer.line()
        writer.line(self.verdict, style="bold" if self.same else "bold red")
        if self.table is not None:
            writer.line()
            console.print(Fitted(self.table))
        notes = [f"- {note}" for note in self.notes]
        writer.sections({**self.sections(writer.width), "Notes": notes})

    def text(self, width: int = WIDTH) -> str:
        """It as plain text."""
        return as_text(self.show, width)
