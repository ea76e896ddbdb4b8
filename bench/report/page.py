"""One HTML page with everything inside: text, tables, drawings and the scripts that draw them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import vl_convert

from bench.pages.render import rendered
from bench.report.charts import ordered
from bench.report.load_results import Run
from bench.report.pictures import VEGA_LITE
from bench.report.section import Chart, Section, View
from bench.report.theme import DARK, LIGHT

HERE = Path(__file__).parent
EXPORT = "window.vegaEmbed = vegaEmbed;"  # what the library gives to the page's own script
LONG = 40  # characters; a longer cell has a least width, or it takes too many lines


def page(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """Make the whole page. Text is escaped by the template; style and scripts are our own and go in as they are."""
    devices = ordered(run.device for run in runs)
    newest = {run.device: number for number, run in enumerate(runs)}  # the last of each device
    charts = {
        place: chart.spec
        for section in sections
        for number, views in enumerate(section.views)
        for place, chart in charts_of(section, number, views)
    }
    data = {
        "charts": charts,
        "themes": {"light": LIGHT, "dark": DARK},
        "runs": [{"device": devices.index(run.device), "title": run.title} for run in runs],
    }
    return rendered(
        HERE / "page.html",
        title="benchmarks",
        devices=devices,
        runs=runs,
        newest=sorted(newest.values()),
        sections=sections,
        long=LONG,
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        # no text in a script may look like its end
        library=vl_convert.javascript_bundle(EXPORT, VEGA_LITE).replace("</script", "<\\/script"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
    )


def charts_of(section: Section, number: int, views: tuple[View, ...]) -> Iterator[tuple[str, Chart]]:
    """The charts of a run in a section, each with the name of its place on the page."""
    for v, view in enumerate(views):
        for c, chart in enumerate(view.charts):
            yield f"{section.key}-{number}-{v}-{c}", chart
