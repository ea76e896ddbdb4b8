"""Colours and sizes of all charts, light and dark, as configurations of Vega-Lite."""

from __future__ import annotations

from typing import Any

# as many as there are colours
SHAPES = [
    *("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"),
    *("wedge", "arrow"),
]
FONT = "system-ui, sans-serif"


def theme(ink: str, faint: str, lines: str, colours: list[str]) -> dict[str, Any]:
    """The configuration of a chart: colours, fonts and sizes.

    Args:
        ink, faint: colours of names, and of numbers on axes
        lines: colour of a grid
        colours: one for each kind; kinds differ by shape too
    """
    words = {"labelColor": ink, "titleColor": faint, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": "transparent",
        "font": FONT,
        "padding": 4,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "view": {"stroke": None},
        "axis": {
            **words,
            "titleFontWeight": "normal",
            "gridColor": lines,
            "domainColor": lines,
            "tickColor": lines,
            "labelLimit": 200,
            "labelPadding": 5,
        },
        "legend": {**words, "titleFontWeight": "normal", "symbolStrokeWidth": 2, "symbolBaseFillColor": faint},
        "title": {"color": ink, "anchor": "start", "fontSize": 14, "fontWeight": 600, "offset": 8},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": faint},
        "line": {"color": faint},
        "bar": {"color": colours[0]},
        "point": {"color": colours[0]},
        "range": {"category": colours, "symbol": SHAPES},
    }


LIGHT = theme(
    ink="#1c2733",
    faint="#5b6876",
    lines="#dfe4ea",
    colours=[
        "#0b5cad",
        "#c2410c",
        "#15803d",
        "#7e22ce",
        "#a16207",
        "#be185d",
        "#0e7490",
        "#57534e",
        "#4d7c0f",
        "#475569",
    ],
)
DARK = theme(
    ink="#e6ebf1",
    faint="#a5b1be",
    lines="#343d48",
    colours=[
        "#7cb8ff",
        "#ff9d5c",
        "#6ee7a0",
        "#cda4ff",
        "#f2c94c",
        "#ff8fbf",
        "#5fd9ee",
        "#c7c2bd",
        "#bef264",
        "#94a3b8",
    ],
)
