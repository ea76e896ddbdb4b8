"""The tables of a run as Markdown, with its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.load_results import Run
from bench.report.section import Cell, Link, Section, Table


def document(run: Run, number: int, sections: Sequence[Section], pictures: dict[str, str]) -> str:
    """All tables of a run, as one Markdown document.

    Args:
        number: of the run, which selects its views in a section
        pictures: the picture file of a section, relative to the document
    """
    lines = [f"# {run.device}", "", f"Measured {run.title}. Written by `paritygpt report`.", ""]
    for section in sections:
        views = () if section.shared else section.views[number]
        if not views:
            continue
        lines += [f"## {section.title}", ""]
        for paragraph in section.words:
            lines += [paragraph, ""]
        if section.key in pictures:
            lines += [f"![{section.title}, {run.device}]({pictures[section.key]})", ""]
        for view in views:
            for table in view.tables:
                lines += [f"**{escaped(table.title)}**", "", *table_lines(table), ""]
    return "\n".join(lines)


def table_lines(table: Table) -> list[str]:
    """A table as lines of Markdown."""
    ruler = ("---" if column in table.words else "---:" for column in range(len(table.head)))
    rows = (table.head, *table.rows)
    lines = [f"| {' | '.join(map(shown, row))} |" for row in rows]
    return [lines[0], f"| {' | '.join(ruler)} |", *lines[1:]]


def shown(cell: Cell) -> str:
    """A cell."""
    return f"[{escaped(cell.text)}]({cell.address})" if isinstance(cell, Link) else escaped(cell)


def escaped(text: str) -> str:
    """Text with Markdown's marks escaped, on one line."""
    for mark in ("\\", "|", "<", "*", "`"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
