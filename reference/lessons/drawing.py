"""The pictures of the lessons, in Vega-Lite.

A PNG contains its Vega-Lite description (`description`), so that tests compare content and not pixels.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from reference.plots.charts import PALE_TO_DARK, inline, styled
from reference.plots.png import packed, text_of

FOLDER = Path("runs") / "lessons"
ORANGE, BLUE = "#c2410c", "#1d4e89"
SHADES = ["#a9c4e4", "#ffffff", "#f3c3a8"]  # from -1 over 0 to 1
SHARPNESS = 1.3  # pixels of a PNG for each unit of the drawing: enough for a page, and a small file
WIDTH, HEIGHT = 480, 320  # pixels of a map of words
BETWEEN_WORDS, OFF_DOT = 17.0, 12.0  # pixels from a word to the next, and to any dot
PUSHES = 300  # rounds
KEYWORD = "vega-lite"

Rows = Sequence[dict[str, Any]]


def told(chart: alt.TopLevelMixin, path: Path, what: str) -> str:
    """Write a picture with its description inside; returns a line with its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    chart.save(str(part), format="png", scale_factor=SHARPNESS)
    part.write_bytes(packed(part.read_bytes(), KEYWORD, json.dumps(chart.to_dict())))
    os.replace(part, path)  # atomically: no reader finds half a picture
    return f"\n{what}: {path.as_posix()}"


def description(path: Path) -> Any:
    """The Vega-Lite description of a picture that `told` wrote; ValueError for other PNGs."""
    text = text_of(path.read_bytes(), KEYWORD)
    if text is None:
        raise ValueError(f"{path} does not say what it shows: draw it again")
    return json.loads(text)


def rounded(rows: Rows) -> alt.Data:
    """Rows rounded to three digits: more are invisible, and differ between machines."""
    return inline([{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows])


def titled(chart: Any, title: str, subtitle: str = "") -> alt.TopLevelMixin:
    """A styled picture with a title."""
    return styled(chart.properties(title=alt.TitleParams(title, subtitle=subtitle or alt.Undefined)))


def plane(cells: Rows, dots: Rows) -> alt.TopLevelMixin:
    """Draw a model's answer over a plane (rows of x, y, x2, y2, answer) and dots of two kinds (x, y, wanted)."""
    x = alt.X("x:Q", title=None, axis=alt.Axis(grid=False))
    y = alt.Y("y:Q", title=None, axis=alt.Axis(grid=False))
    shade = alt.Color("answer:Q", scale=alt.Scale(domain=[-1, 0, 1], range=SHADES))
    kinds = alt.Scale(domain=["-1", "1"], range=[BLUE, ORANGE])
    x2, y2 = alt.X2("x2:Q"), alt.Y2("y2:Q")
    squares = alt.Chart(rounded(cells)).mark_rect(clip=True).encode(x, y, shade, x2, y2)
    points = (
        alt.Chart(rounded(dots))
        .mark_circle(size=70, opacity=1, stroke="white", strokeWidth=1)
        .encode(x, y, alt.Fill("wanted:N", scale=kinds))
    )
    layers = alt.layer(squares, points).resolve_scale(color="independent", fill="independent")
    return titled(layers.properties(width=440, height=280), "Two half moons, told apart")


def curves(
    rows: Rows, x: str, y: str, kind: str, title: str, subtitle: str = "", log: bool = False, unit: str = ""
) -> Any:
    """Draw a line for each kind. Rows have x, y and kind under these names; kinds keep their order.

    Args:
        unit: of y, on its axis
    """
    kinds = list(dict.fromkeys(row[kind] for row in rows))
    across = alt.X(f"{x}:Q", axis=alt.Axis(grid=False, format=",d"))
    scale = alt.Scale(zero=False, type="log" if log else "linear")
    up = alt.Y(f"{y}:Q", title=f"{y} ({unit})" if unit else alt.Undefined, scale=scale)
    colour = alt.Color(f"{kind}:N", title=None, sort=None, scale=alt.Scale(domain=kinds))
    lines = alt.Chart(rounded(rows)).mark_line(strokeWidth=2).encode(across, up, colour)
    return titled(lines.properties(width=480, height=260), title, subtitle)


def histograms(rows: Rows, title: str, subtitle: str = "") -> alt.TopLevelMixin:
    """Draw distributions in panels, a line for each kind: rows of panel, kind, x and share."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    lines = (
        alt.Chart()
        .mark_area(opacity=0.25, line={"strokeWidth": 1.5}, interpolate="step")
        .encode(
            x=alt.X("x:Q", title=None, axis=alt.Axis(grid=False)),
            y=alt.Y("share:Q", title=None, axis=alt.Axis(labels=False, ticks=False), stack=None),
            color=alt.Color("kind:N", title=None, sort=None, scale=alt.Scale(domain=kinds)),
        )
        .properties(width=220, height=110)
    )
    panel = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelFontSize=12))
    grid = lines.facet(data=rounded(rows), facet=panel, columns=2).resolve_scale(x="independent", y="independent")
    return titled(grid, title, subtitle)


def labels(rows: Rows, title: str, subtitle: str = "") -> alt.TopLevelMixin:
    """Draw words beside their dots, where no word covers another: rows of x, y, text and kind."""
    placed = []
    for row, (x, y) in zip(rows, apart(rows), strict=True):
        middle = {"line_x": (row["x"] + x) / 2, "line_y": (row["y"] + y) / 2}  # a line that stays clear of the word
        placed.append({**row, "text_x": x, "text_y": y, **middle})
    bare = alt.Axis(grid=False, labels=False, ticks=False)
    across, up = alt.X("x:Q", title=None, axis=bare), alt.Y("y:Q", title=None, axis=bare)
    base = alt.Chart(rounded(placed)).encode(color=alt.Color("kind:N", title=None, sort=None))
    lines = base.mark_rule(strokeWidth=0.7).encode(across, up, x2="line_x:Q", y2="line_y:Q")
    dots = base.mark_circle(size=9, opacity=1).encode(across, up)
    texts = base.mark_text(fontSize=15).encode(x="text_x:Q", y="text_y:Q", text="text:N")
    return titled((lines + dots + texts).properties(width=WIDTH, height=HEIGHT), title, subtitle)


def apart(rows: Rows) -> list[tuple[float, float]]:
    """Find places for words near the rows' x and y: words push each other apart and off the dots."""
    scales = []
    for key, size in (("x", WIDTH), ("y", HEIGHT)):
        values = [float(row[key]) for row in rows]
        scales.append(size / ((max(values) - min(values)) or 1.0))
    dots = [(float(row["x"]) * scales[0], float(row["y"]) * scales[1]) for row in rows]  # in pixels
    words = [[x, y + OFF_DOT] for x, y in dots]
    for _ in range(PUSHES):
        for i, word in enumerate(words):
            for other in words[:i]:
                across, up = pushed(word, other, BETWEEN_WORDS)
                word[0], word[1] = word[0] + across / 2, word[1] + up / 2
                other[0], other[1] = other[0] - across / 2, other[1] - up / 2
            for dot in dots:
                across, up = pushed(word, dot, OFF_DOT)
                word[0], word[1] = word[0] + across, word[1] + up
    return [(x / scales[0], y / scales[1]) for x, y in words]


def pushed(word: Sequence[float], other: Sequence[float], room: float) -> tuple[float, float]:
    """The step that takes a word at least `room` away from another place; equal places part sideways."""
    across, up = word[0] - other[0], word[1] - other[1]
    distance = math.hypot(across, up)
    if distance >= room:
        return 0.0, 0.0
    if distance == 0.0:
        return room, 0.0
    return across * (room / distance - 1.0), up * (room / distance - 1.0)


def tables(rows: Rows, title: str, subtitle: str = "", size: int = 12) -> alt.TopLevelMixin:
    """Draw tables of shares side by side: rows of panel, row, column, share; rows and columns keep their order."""
    panels, across, down = (list(dict.fromkeys(row[key] for row in rows)) for key in ("panel", "column", "row"))
    shade = alt.Color(
        "share:Q",
        # the root gives the many small shares a colour of their own
        scale=alt.Scale(type="sqrt", domain=[0, 1], range=PALE_TO_DARK),
        legend=alt.Legend(values=[0, 0.05, 0.2, 0.5, 1], format="~%"),
    )
    label = alt.Axis(title=None, labelAngle=0, labelOverlap=False, ticks=False, domain=False, labelFontSize=9)
    cells = alt.Chart().mark_rect().encode(
        x=alt.X("column:N", sort=across, axis=label), y=alt.Y("row:N", sort=down, axis=label), color=shade
    ).properties(width=size * len(across), height=size * len(down))  # fmt: skip
    panel = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelFontSize=12))
    return titled(cells.facet(data=rounded(rows), facet=panel, columns=len(panels)), title, subtitle)
