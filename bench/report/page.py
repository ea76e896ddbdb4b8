"""One HTML page with everything inside: text, tables, drawings and the scripts that draw them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import vl_convert

from bench.report.charts import ordered
from bench.report.load_results import Run
from bench.report.pictures import VEGA_LITE
from bench.report.section import Cell, Link, Section, Table, View
from bench.report.theme import DARK, LIGHT

HERE = Path(__file__).parent
EXPORT = "window.vegaEmbed = vegaEmbed;"  # what the library gives to the page's own script
LONG = 40  # characters of a cell that needs some width, or it has too many lines


def page(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """The whole page."""
    charts = {
        place: chart.spec
        for section in sections
        for number, views in enumerate(section.views)
        for place, chart in charts_of(section, number, views)
    }
    devices = ordered(run.device for run in runs)
    data = {
        "charts": charts,
        "themes": {"light": LIGHT, "dark": DARK},
        "runs": [{"device": devices.index(run.device), "title": run.title} for run in runs],
    }
    return Template(text("page.html")).substitute(
        style=text("page.css"),
        devices="".join(option(number, device) for number, device in enumerate(devices)),
        runs="".join(option(number, run.title) for number, run in enumerate(runs)),
        links="".join(f'<li><a href="#{section.key}">{escape(section.title)}</a></li>' for section in sections),
        sections="\n".join(section_html(section, runs) for section in sections),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        # nothing in a script may look like its end
        library=vl_convert.javascript_bundle(EXPORT, VEGA_LITE).replace("</script", "<\\/script"),
        script=text("page.js"),
    )


def text(name: str) -> str:
    """A file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def charts_of(section: Section, number: int, views: tuple[View, ...]) -> Iterator[tuple[str, Any]]:
    """The place of each drawing of a run, and the drawing."""
    for v, view in enumerate(views):
        for c, chart in enumerate(view.charts):
            yield f"{section.key}-{number}-{v}-{c}", chart


def option(value: int, name: str) -> str:
    """Something to choose."""
    return f'<option value="{value}">{escape(name)}</option>'


def section_html(section: Section, runs: Sequence[Run]) -> str:
    """Text, then what there is of each run."""
    words = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.words)
    bodies = []
    for number, views in enumerate(section.views):
        of = "" if section.shared else f' data-run="{number}"{" hidden" if number else ""}'
        bodies.append(f"<div{of}>{views_html(section, number, views)}</div>")
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
        f'<h2 id="{section.key}-title">{escape(section.title)}</h2>{words}{"".join(bodies)}</section>'
    )


def views_html(section: Section, number: int, views: tuple[View, ...]) -> str:
    """A choice if there is one, and all views, of which the first is seen."""
    if not views:
        return f'<p class="empty">{escape(section.empty)}</p>'
    place = f"{section.key}-{number}"
    choice = ""
    if len(views) > 1:
        options = "".join(option(v, view.name) for v, view in enumerate(views))
        choice = (
            f'<p class="choice"><label for="{place}">{escape(section.choice)}</label> '
            f'<select id="{place}" class="views">{options}</select></p>'
        )
    bodies = (
        f'<div data-view="{v}"{" hidden" if v else ""}>'
        f"{''.join(figure(f'{place}-{v}-{c}', chart.title) for c, chart in enumerate(view.charts))}"
        f"{''.join(map(table_html, view.tables))}</div>"
        for v, view in enumerate(views)
    )
    return choice + "".join(bodies)


def figure(place: str, title: str) -> str:
    """Where a drawing goes."""
    return f'<figure><figcaption>{escape(title)}</figcaption><div class="chart" data-chart="{place}"></div></figure>'


def table_html(table: Table) -> str:
    """A table that scrolls by itself where the page is narrow, by keyboard too."""

    def cells(row: tuple[Cell, ...], head: bool) -> Iterator[str]:
        for column, cell in enumerate(row):
            words = "words long" if isinstance(cell, str) and len(cell) > LONG else "words"
            of = f' class="{words}"' if column in table.words else ""
            if head:
                yield f'<th scope="col"{of}>{linked(cell)}</th>'
            elif column == 0:
                yield f'<th scope="row"{of}>{linked(cell)}</th>'
            else:
                yield f"<td{of}>{linked(cell)}</td>"

    head = f"<thead><tr>{''.join(cells(table.head, head=True))}</tr></thead>"
    body = "".join(f"<tr>{''.join(cells(row, head=False))}</tr>" for row in table.rows)
    found = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><caption>{escape(table.title)}</caption>{head}<tbody>{body}</tbody></table></div>"
    )
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{found}</details>"
    return found


def linked(cell: Cell) -> str:
    """A cell."""
    return f'<a href="{escape(cell.address)}">{escape(cell.text)}</a>' if isinstance(cell, Link) else escape(cell)
