"""The tables of a run as Markdown, with its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.chapter import Chapter, Table
from bench.report.gather import Run


def document(run: Run, number: int, chapters: Sequence[Chapter], pictures: dict[str, str]) -> str:
    """All that is known of a run.

    Args:
        number: which of the chapters' views are its own
        pictures: chapter -> file, beside this one
    """
    lines = [f"# {run.device}", "", f"Measured {run.title}. Written by `paritygpt report`.", ""]
    for chapter in chapters:
        views = () if chapter.shared else chapter.views[number]
        if not views:
            continue
        lines += [f"## {chapter.title}", ""]
        for paragraph in chapter.words:
            lines += [paragraph, ""]
        if chapter.key in pictures:
            lines += [f"![{chapter.title}, {run.device}]({pictures[chapter.key]})", ""]
        for view in views:
            for table in view.tables:
                lines += [f"**{escaped(table.title)}**", "", *table_lines(table), ""]
    return "\n".join(lines)


def table_lines(table: Table) -> list[str]:
    """A table."""
    ruler = ("---" if column in table.words else "---:" for column in range(len(table.head)))
    rows = (table.head, *table.rows)
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    return [lines[0], f"| {' | '.join(ruler)} |", *lines[1:]]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for mark in ("\\", "|", "<", "*", "`"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
