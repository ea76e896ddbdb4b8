"""The table of the 43 public bugs in users' files: its record, docs/users_files.json, and its part of docs/bugs.md."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report.markdown import table_lines
from bench.report.section import Table
from tests.bugs.users_files import BUGS

RECORD = Path(__file__).parents[2] / "docs" / "users_files.json"
HEAD = ("#", "what is wrong in the user's file", "file", "compare", "caught", "named", "CPU s", "the report says")


@dataclass(frozen=True)
class Row:
    """One file and what its command said."""

    bug: int  # 0: nothing is wrong
    what: str
    kind: str
    command: str
    status: int
    named: bool
    said: str  # the first thing that is named
    seconds: float  # of CPU time

    @property
    def key(self) -> tuple[int, str, str, str]:
        """What tells it from other rows."""
        return (self.bug, self.what, self.kind, self.command)

    @property
    def caught(self) -> bool:
        """Whether the command found a difference."""
        return self.status == 1


def section(rows: Sequence[Row]) -> str:
    """The part of docs/bugs.md on users' files."""
    return f"""\
## In users' files

    python -m tests.bugs.measure_users_files        # some minutes; writes users_files.json and this table

{chr(10).join(textwrap.wrap(summary(rows), 120))}

A user's file is a right one in which a few words are changed: an example, a model in nanoGPT's style, a generator or a
loader in another style ([tests/bugs/users_files.py](../tests/bugs/users_files.py)). `python -m bench compare` tests it,
with the option of the table. *Caught*: exit status 1. *Named*: the first cause in the report is the bug.

{chr(10).join(table(rows))}
"""


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in Markdown."""
    cells = tuple(
        (
            str(row.bug) if row.bug else "-",
            row.what,
            row.kind,
            row.command,
            ("yes" if row.caught else f"NO, {row.status}")
            if row.bug
            else ("no" if row.status == 0 else f"YES, {row.status}"),
            ("yes" if row.named else "NO") if row.bug else "",
            f"{row.seconds:.1f}",
            row.said,
        )
        for row in rows
    )
    return list(table_lines(Table("", HEAD, cells, words=(0, 1, 2, 3, 4, 5, 7))))


def summary(rows: Sequence[Row]) -> str:
    """Counts, in sentences."""
    wrong = [row for row in rows if row.bug]
    caught, named = (
        {bug for bug in range(1, BUGS + 1) if all(good(row) for row in wrong if row.bug == bug)}
        for good in (lambda row: row.caught, lambda row: row.caught and row.named)
    )
    alarms = sum(row.status != 0 for row in rows if not row.bug)
    missed = [str(bug) for bug in range(1, BUGS + 1) if bug not in named]
    text = (
        f"Of the {BUGS} public bugs, {len(caught)} are caught in users' files, {len(named)} with their name; in "
        f"{len(wrong)} files, {sum(row.caught for row in wrong)} and {sum(row.named for row in wrong)}. "
        f"{len(rows) - len(wrong)} right files: {alarms or 'no'} alarms."
    )
    return text + (f" Not caught or not named: {', '.join(missed)}." if missed else "")


def read_rows() -> list[Row]:
    """The record."""
    return [Row(**values) for values in json.loads(RECORD.read_text(encoding="utf-8"))]
