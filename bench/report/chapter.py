"""What a report is made of: chapters, which have views to choose from, which have charts and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Text in rows, the first column naming them."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)  # the columns that hold words, to the left; numbers go to the right
    folded: bool = False  # so long that a page shows it only when asked


@dataclass(frozen=True)
class Chart:
    """A drawing in Vega-Lite, as wide as the place that it is put in."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class View:
    """What is seen at once."""

    name: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One topic."""

    key: str
    title: str
    words: tuple[str, ...]  # paragraphs
    choice: str  # what is chosen between the views
    views: tuple[tuple[View, ...], ...]  # of every run, or a single entry if they have nothing to do with a run
    shared: bool = False  # whether they have not
    empty: str = "This run has none."  # said of a run without views
