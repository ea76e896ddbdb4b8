"""The drawings of a section as one PNG file, in light colours."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

from bench.report.section import Chart, View
from bench.report.theme import LIGHT
from reference.plots.png import packed

# pixels of a chart without the names beside it, by the number of charts in a row: a row is about as wide as a page
WIDTHS = {1: 640, 2: 380, 3: 240}
SHARPNESS = 1.5  # pixels for each unit of the drawing
ON_PAPER = {**{key: value for key, value in LIGHT.items() if key != "autosize"}, "background": "white", "padding": 16}
APART = {"scale": {"color": "independent", "shape": "independent"}}  # each chart has kinds of its own
# by section, how many of its views are in the picture; None: all
PICTURES: dict[str, int | None] = {
    "headline": None,
    "ablation": None,
    "peers": 1,
    "roofline": None,
    "scaling": None,
    "parity": None,
}
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])  # as vl-convert names the version that Altair writes: v6_4


def png(views: tuple[View, ...]) -> bytes | None:
    """The charts of a section, view below view, at most three in a row; None if it has none."""
    most = max(WIDTHS)
    rows: list[list[dict[str, Any]]] = []
    for view in views:
        width = WIDTHS[min(most, max(1, len(view.charts)))]
        drawn = [placed(chart, width) for chart in view.charts]
        rows += [drawn[start : start + most] for start in range(0, len(drawn), most)]
    if not rows:
        return None
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "vconcat": [{"hconcat": row, "spacing": 30, "resolve": APART} for row in rows],
        "spacing": 30,
        "resolve": APART,
    }
    return packed(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=SHARPNESS, config=ON_PAPER))


def placed(chart: Chart, width: int) -> dict[str, Any]:
    """A chart with a width and its title, as part of a picture."""
    spec = {key: value for key, value in chart.spec.items() if key not in ("$schema", "config")}
    return {**spec, "title": chart.title, "width": width}
