"""What a report consists of: sections of views, views of charts and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """A cell that leads elsewhere."""

    text: str
    address: str


Cell = str | Link


@dataclass(frozen=True)
class Table:
    """Text in rows; the first column names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[int, ...] = (0,)  # columns of words, aligned left; numbers are aligned right
    folded: bool = False  # a long table, which the page shows on request


@dataclass(frozen=True)
class Chart:
    """A drawing in Vega-Lite, without a width: it fills its place."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class View:
    """Charts and tables that are shown together."""

    name: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Section:
    """One topic."""

    key: str
    title: str
    words: tuple[str, ...]  # paragraphs
    choice: str  # what the reader chooses among the views
    views: tuple[tuple[View, ...], ...]  # of every run; one entry if the section is the same for all runs
    shared: bool = False  # the same for all runs
    side_by_side: bool = False  # the page shows the newest run of every device at once
    empty: str = "This run has none."  # shown where there are no views
