"""Tables and lines that fit into a terminal, however narrow, with every cell whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

GAP = 2  # spaces between columns, and before numbers that are below their name


def broken(line: str, width: int, indent: str = "    ") -> list[str]:
    """A line in lines of at most so many characters, all but the first indented. It is broken at spaces, and after a /
    in a name that is longer than a line; what is longer still stays whole."""
    lines: list[str] = []
    start = ""
    for word in re.findall(r"\s*\S+", line):
        fits = len(indent + word.lstrip()) <= width
        for piece in [word] if fits else re.findall(r"\s*(?:[^\s/]+/?|/)", word):
            if start.strip() and len(start + piece) > width:
                lines.append(start)
                start = indent + piece.lstrip()
            else:
                start += piece
    return [*lines, start]


class Fitted:
    """A table that is printed whole where there is room; else fewer columns at a time, below each other.

    Each of those tables begins with the columns that name the rows. Where the names are so long that this makes many
    tables, each name is on a line of its own, above its numbers. No cell is cut or folded.

    Args:
        table: of rich, with a line for each row
        keys: how many of its columns name the rows
        together: how many columns belong together, group by group; those beyond are each alone
    """

    def __init__(self, table: Any, keys: int = 1, together: Sequence[int] = ()) -> None:
        self.table, self.keys = table, keys
        self.rows = list(zip(*(column.cells for column in table.columns), strict=True))
        texts = ([*column.header.splitlines(), *column.cells] for column in table.columns)
        self.widths = [max(map(len, of_column), default=0) for of_column in texts]
        self.groups: list[list[int]] = []
        start, all_of_them = keys, len(table.columns)
        for count in [*together, *[1] * all_of_them]:
            if start < all_of_them:
                self.groups.append(list(range(start, min(start + count, all_of_them))))
                start += count

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        width = options.max_width
        if self.natural(range(len(self.table.columns))) <= width:
            yield self.table
            return
        names = list(range(self.keys))
        parts, fits = self.packed(names, width)
        below, _ = self.packed([], width - GAP)
        if fits and len(parts) <= 2 * len(below):
            for number, part in enumerate(parts):
                yield from [""] * (number > 0)  # a line between the tables
                yield self.some(part)
        else:
            for number, part in enumerate(below):
                yield from [""] * (number > 0)
                yield from self.with_names_above(part, console, options)

    def packed(self, names: list[int], width: int) -> tuple[list[list[int]], bool]:
        """The columns in as few tables as hold them, groups together where they fit; and whether all do fit."""
        parts: list[list[int]] = []
        fits = True
        for group in self.groups:
            narrow = self.natural([*names, *group]) <= width
            for columns in [group] if narrow else [[column] for column in group]:
                if parts and self.natural([*parts[-1], *columns]) <= width:
                    parts[-1] += columns
                else:
                    parts.append([*names, *columns])
                    fits = fits and self.natural(parts[-1]) <= width
        return parts, fits

    def natural(self, columns: Sequence[int]) -> int:
        """How wide some columns are, with nothing cut."""
        return sum(self.widths[number] for number in columns) + GAP * (len(columns) - 1)

    def some(self, columns: Sequence[int], indented: bool = False) -> Any:
        """A table of some columns, without the rows that have nothing in them."""
        from rich.table import Table

        of = self.table
        table = Table(box=of.box, show_edge=of.show_edge, pad_edge=of.pad_edge, padding=of.padding)
        if indented:
            table.add_column("")
        for number in columns:
            column = self.table.columns[number]
            table.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
        for row, style in self.filled(columns):
            table.add_row(*([""] if indented else []), *(row[number] for number in columns), style=style)
        return table

    def filled(self, columns: Sequence[int]) -> list[tuple[tuple[Any, ...], Any]]:
        """The rows that have something in some columns, names apart, and their styles."""
        return [
            (row, of.style)
            for row, of in zip(self.rows, self.table.rows, strict=True)
            if any(row[number] for number in columns if number >= self.keys)
        ]

    def with_names_above(self, columns: Sequence[int], console: Any, options: Any) -> Iterator[Any]:
        """A table of some columns of numbers, the name of each row above it."""
        from rich.segment import Segment, Segments
        from rich.text import Text

        filled = self.filled(columns)
        if self.natural(columns) > options.max_width - GAP:
            yield from self.lines_of_cells(columns, options)
            return
        lines = console.render_lines(self.some(columns, indented=True), options, pad=False)
        head = len(lines) - len(filled)
        for number, line in enumerate(lines):
            if number >= head:
                row, style = filled[number - head]
                name = "  ".join(filter(None, row[: self.keys]))
                for piece in broken(name, options.max_width):
                    yield Text(piece, style=style or "")
            yield Segments([*line, Segment.line()])

    def lines_of_cells(self, columns: Sequence[int], options: Any) -> Iterator[Any]:
        """The last resort, for a cell that is wider than the terminal: words in lines, below what they are about."""
        from rich.text import Text

        for row, style in self.filled(columns):
            name = "  ".join(filter(None, row[: self.keys]))
            heads = {number: " ".join(self.table.columns[number].header.split()) for number in columns}
            for line in (name, *(f"  {heads[number]}: {row[number]}" for number in columns if row[number])):
                for piece in broken(line, options.max_width):
                    yield Text(piece, style=style or "")
