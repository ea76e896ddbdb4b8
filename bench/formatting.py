"""Format tables, lines, numbers and units for a terminal; no cell is cut, however narrow the terminal."""

from __future__ import annotations

import io
import math
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GAP = 2  # spaces between columns, and before numbers under a row's name
WIDTH, LEAST = 100, 40  # columns; a terminal narrower than LEAST wraps lines itself
NOT_THE_SAME = "not the same function"  # shown in place of numbers for a contender that is known to differ


def broken(line: str, width: int, indent: str = "    ") -> list[str]:
    """Wrap a line to `width` characters, with an indent from the second line on.

    It breaks at spaces, and after a / in a name that is longer than a line; longer words stay whole.
    """
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


def as_text(show: Callable[[Any], None], width: int = WIDTH) -> str:
    """What a function prints on a rich console, as plain text."""
    from rich.console import Console

    file = io.StringIO()
    show(Console(file=file, width=width, highlight=False, color_system=None))
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines())


def print_report(show: Callable[[Any], None]) -> None:
    """Print what a function prints on a rich console: in colour on a terminal, else as plain text of its width."""
    console = terminal()
    if sys.stdout.isatty():
        show(console)
    else:
        print(as_text(show, console.width))


class Writer:
    """Prints a report's lines and sections on a rich console, wrapped at WIDTH columns."""

    def __init__(self, console: Any) -> None:
        self.console, self.width = console, min(WIDTH, console.width)

    def line(self, line: str = "", style: str = "", indent: str = "") -> None:
        """Print a line; without text, an empty one."""
        wrapped = textwrap.fill(
            line, self.width, initial_indent=indent, subsequent_indent=indent + "    ", break_on_hyphens=False
        )
        self.console.print(wrapped, markup=False, style=style)

    def sections(self, sections: Mapping[str, Sequence[str]]) -> None:
        """Print titles with the lines below them; no title without lines."""
        for title, lines in sections.items():
            if lines:
                self.line()
                self.line(title, style="bold")
                for line in lines:
                    self.line(line, indent="  ")
        self.line()


class Fitted:
    """A table that is printed whole if it fits; else as several tables of fewer columns, below each other.

    Each of those begins with the columns that name the rows. If long names lead to many tables, each name is on its own
    line above its numbers instead. No cell is cut or folded.

    Args:
        table: a rich table with one line per row
        keys: number of columns that name the rows
        together: sizes of the groups of columns that stay together; further columns are groups of one
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
        """Distribute the columns over few tables, groups together if they fit; also whether all tables fit."""
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
        """The width of some columns, uncut."""
        return sum(self.widths[number] for number in columns) + GAP * (len(columns) - 1)

    def some(self, columns: Sequence[int], indented: bool = False) -> Any:
        """A table of some columns, without rows that are empty there."""
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
        """Rows that are not empty in some columns (names do not count), and their styles."""
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
        """For a cell wider than the terminal: each cell on lines of its own, after its row and column names."""
        from rich.text import Text

        for row, style in self.filled(columns):
            name = "  ".join(filter(None, row[: self.keys]))
            heads = {number: " ".join(self.table.columns[number].header.split()) for number in columns}
            for line in (name, *(f"  {heads[number]}: {row[number]}" for number in columns if row[number])):
                for piece in broken(line, options.max_width):
                    yield Text(piece, style=style or "")


def terminal() -> Any:
    """The console for tables."""
    from rich.console import Console

    console = Console(highlight=False)
    # 100 columns for a file or a pipe, unless COLUMNS is set; at most 100 for a wide terminal
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(highlight=False, width=max(LEAST, min(WIDTH, console.width)) if known else WIDTH)


def plain_table() -> Any:
    """A rich table with a line under its head and two spaces between columns."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def scientific(value: float) -> str:
    """An error: 3.1e-12, or 0."""
    return "0" if value == 0.0 else f"{value:.1e}"


def digits(error: float) -> str:
    """The number of decimal digits that agree."""
    return "every digit" if error == 0.0 else f"{max(0.0, -math.log10(error)):.1f} digits"


def interval(ratio: dict[str, float]) -> str:
    """A ratio with its interval: `1.50 [1.40, 1.62]`."""
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def significant(value: float) -> str:
    """Four significant digits, with commas: 12,340."""
    digits = max(0, 3 - len(str(int(value))) + 1) if value < 1000 else 0
    return f"{value:,.{digits}f}"


def scaled(value: float | None, unit: str) -> str:
    """A large number with a prefix: 1.234 TFLOP; n/a for None."""
    if value is None:
        return "n/a"
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def per_second(value: float | None, unit: str) -> str:
    """A rate with a prefix: 1.234 TFLOP/s; n/a for None."""
    return "n/a" if value is None else f"{scaled(value, unit)}/s"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{significant(1000 * seconds)} ms" if seconds >= 1e-4 else f"{1000 * seconds:.3g} ms"


def size(count: int | None) -> str:
    """Bytes with a prefix, in powers of 1000."""
    if count is None:
        return "n/a"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def one_line(error: BaseException, file: Path | None = None) -> str:
    """An exception in one line, with the last line number of `file` in its traceback."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())  # some libraries use colour codes
    text = text if len(text) <= 300 else f"{text[:297]}..."
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if file is not None and Path(f.filename) == file]
    if isinstance(error, SyntaxError) or not own:
        return words  # a SyntaxError's text has the line number
    return f"{words} (line {own[-1].lineno})"
