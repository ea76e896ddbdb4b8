"""What the tests found out, read from the tables of the documents that they write: docs/parity.md and docs/bugs.md.

Strictly: a table that is not as it should be is refused in one line that names the file and the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

Rows = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]  # head, rows; as many cells in each

CELL = re.compile(r"(?<!\\)\|")
ERROR = re.compile(r"|\d\.\de[+-]\d\d( \(\d+\.\d\d\))?")  # of docs/parity.md: 4.0e-07 (0.08)
QUANTITIES = ("logits", "loss", "gradient", "20 steps", "update")
PARITY_HEAD = ("recipe", *QUANTITIES, "in any recipe", "recipes")
CAUGHT_HEAD = ("#", "bug", "met in", "of", "needs", "check", "error", "allowed", "times")
USUAL_HEAD = ("#", "bug")  # then the ways
CHECKS_HEAD = ("kind", "check", "asks", "mutants", "right code")


@dataclass(frozen=True)
class Parity:
    """Errors of every recipe."""

    tables: dict[str, Rows]  # by precision, of the columns up to the last quantity


@dataclass(frozen=True)
class PlantedBugs:
    """The planted bugs."""

    summary: str  # plain words
    caught: Rows
    usual: Rows
    checks: Rows


def read_parity(path: Path) -> Parity:
    """Read docs/parity.md. Raises ValueError, one line, for a file that is not there or not as the tests write it."""
    tables = tables_of(path, text_of(path))
    found: dict[str, Rows] = {}
    for heading, (head, rows) in tables.items():
        if head != PARITY_HEAD:
            raise ValueError(f"{path}: the table under {heading!r} has the columns {', '.join(head)}, {remedy(path)}")
        width = 1 + len(QUANTITIES)
        # what is proven elsewhere has no numbers here
        kept = tuple(row[:width] for row in rows if any(row[1:width]))
        for row in kept:
            for cell in row[1:]:
                if not ERROR.fullmatch(cell):
                    raise ValueError(f"{path}: {cell!r} of {row[0]} in {heading} is no error, {remedy(path)}")
        found[heading] = (head[:width], kept)
    if not found:
        raise ValueError(f"{path}: has no table of errors, {remedy(path)}")
    return Parity(found)


def read_bugs(path: Path) -> PlantedBugs:
    """Read docs/bugs.md. Raises ValueError, one line, for a file that is not there or not as the tests write it."""
    text = text_of(path)
    tables = list(tables_of(path, text).values())
    heads = (CAUGHT_HEAD, USUAL_HEAD, CHECKS_HEAD)
    if len(tables) != len(heads):
        raise ValueError(f"{path}: has {len(tables)} tables, not {len(heads)}, {remedy(path)}")
    for (head, _), wanted in zip(tables, heads, strict=True):
        if head[: len(wanted)] != wanted:
            raise ValueError(f"{path}: has a table of {', '.join(head)}, {remedy(path)}")
    caught, usual, checks = tables
    for row in checks[1]:
        if not row[3].isdecimal():
            raise ValueError(f"{path}: {row[3]!r} mutants of the check {row[1]} are no number, {remedy(path)}")
    paragraphs = [part for part in text.split("\n\n") if not part.startswith(("#", "    ", "|"))]
    return PlantedBugs(" ".join(paragraphs[0].split()), caught, usual, checks)


def remedy(path: Path) -> str:
    """How to get a good one."""
    how = {
        "bugs.md": "python -m tests.bugs.table",
        "parity.md": 'python -m pytest tests/parity/test_parity_recipes.py -m "slow or not slow"',
    }
    return f"write it again by {how.get(path.name, 'the tests')} in a checkout"


def text_of(path: Path) -> str:
    """A document."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}), {remedy(path)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: is no text ({error}), {remedy(path)}") from None


def tables_of(path: Path, text: str) -> dict[str, Rows]:
    """The table under each heading that has one; of several the last."""
    found: dict[str, Rows] = {}
    heading = ""
    table: list[tuple[str, ...]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("|"):
            cells = tuple(cell.strip().replace("\\|", "|") for cell in CELL.split(line.strip())[1:-1])
            if table and len(cells) != len(table[0]):
                raise ValueError(
                    f"{path}, line {number}: has {len(cells)} cells, the table {len(table[0])}, {remedy(path)}"
                )
            table.append(cells)
        elif table:
            head, _ruler, *rows = [*table, ()] if len(table) == 1 else table
            found[heading] = (head, tuple(rows))
            table = []
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
    return found
