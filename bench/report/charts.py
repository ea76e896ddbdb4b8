"""The kinds of charts, in Altair: dots with intervals, bars, curves, the roofline.

A chart has no width and no colours of its own: the page sets both, and a picture takes those of bench/report/theme.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import altair as alt

from bench.report.section import Chart
from reference.plots.charts import inline

LINE = 15  # height of a dot with its margin
ROW = 21  # height of a bar with its margin
BESIDE = 1.75  # width of the axis over that of the longest bar: room for the number behind it on a phone
BYTES = "replace(format(datum.value, '.3~s'), regexp('([kMGT]?)$'), ' $1B')"
DECADES = "datum.value < 1 ? format(datum.value, '~r') : format(datum.value, '~s')"

# a point in words, for the tooltip and for screen readers
SAYING: dict[str, Any] = {"tooltip": alt.Tooltip("says:N"), "description": alt.Description("says:N")}


@dataclass(frozen=True)
class Dot:
    """A number in a row, of one of several kinds."""

    name: str
    kind: str
    value: float
    shown: str  # the number in words, as the tables have it
    low: float | None = None  # its interval
    high: float | None = None


@dataclass(frozen=True)
class Bar:
    """A bar of a group."""

    group: str
    name: str
    value: float
    shown: str  # the number in words, behind the bar


@dataclass(frozen=True)
class Axis:
    """Title, scale and labels of the axis of numbers."""

    title: str
    log: bool = False
    rule: float | None = None  # where a line is to compare with
    format: str = ",~r"  # d3's
    bytes: bool = False
    top: float | None = None  # where the axis ends; a larger number is an arrow at the end, with the number beside it


def chart(title: str, drawn: Any, says: str) -> Chart:
    """Finish a chart: give it a description for screen readers."""
    # Altair's validation takes a fifth of the time of a report: a test does it
    spec = drawn.properties(description=says).to_dict(validate=False)
    spec.pop("config", None)  # Altair's default size
    return Chart(title, spec)


def dots(
    title: str,
    found: Sequence[Dot],
    axis: Axis,
    side_by_side: bool = True,
    all_kinds: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Chart:
    """Draw a row for each name, with a dot and its interval for each kind.

    Args:
        side_by_side: each kind has a line of its own in the row; otherwise they share it
        all_kinds: every kind of the section, so that a kind has one colour in all its drawings
        notes: by name, words in a row that has no number
    """
    notes = notes or {}
    names = ordered([*(dot.name for dot in found), *notes])
    kinds = ordered(dot.kind for dot in found)
    apart = side_by_side and len(kinds) > 1
    colours = alt.Scale(domain=ordered([*all_kinds, *kinds]))
    y: dict[str, Any] = {
        "y": alt.Y(
            "name:N",
            sort=names,
            title=None,
            scale=alt.Scale(paddingInner=0.35, paddingOuter=0.2) if apart else alt.Undefined,
            axis=alt.Axis(grid=True, domain=False, ticks=False, labelPadding=9),
        ),
        "color": alt.Color("kind:N", scale=colours, title=None, legend=legend(kinds)),
    }
    if apart:
        y["yOffset"] = alt.YOffset("kind:N", sort=kinds)
    x = alt.X("value:Q", title=axis.title, scale=scale(found, axis), axis=drawn_axis(found, axis))
    beyond = [dot for dot in found if axis.top is not None and dot.value > axis.top]
    base = alt.Chart(inline(rows_of([dot for dot in found if dot not in beyond], axis)))
    layers = []
    if axis.rule is not None:
        layers.append(alt.Chart(inline([{"at": axis.rule}])).mark_rule(strokeDash=[4, 3]).encode(x="at:Q"))
    if any(dot.low is not None for dot in found):
        layers.append(base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=axis.title), x2="high:Q", **y))
    shape = alt.Shape("kind:N", scale=colours, title=None, legend=legend(kinds))
    layers.append(base.mark_point(filled=True, opacity=1, size=60).encode(x=x, shape=shape, **y, **SAYING))
    if beyond:
        off_scale = alt.Chart(inline(rows_of(beyond, axis))).encode(x=alt.value("width"), **y, **SAYING)
        layers.append(off_scale.mark_point(shape="triangle-right", filled=True, opacity=1, size=90))
        layers.append(off_scale.mark_text(align="right", dx=-10).encode(text="shown:N"))
    if notes:
        said = [{"name": name, "words": words} for name, words in notes.items()]
        words = alt.Chart(inline(said)).mark_text(align="left", fontStyle="italic", opacity=0.8)
        layers.append(words.encode(x=alt.value(4), y=y["y"], text="words:N"))
    height = LINE * len(names) * (len(kinds) + 0.7 if apart else 1.4)
    says = f"{title}: {axis.title} of {', '.join(names)}"
    return chart(title, alt.layer(*layers).properties(height=max(40, height)), says)


def bars(title: str, found: Sequence[Dot], axis: Axis) -> Chart:
    """Draw a bar for each name, with its number at the end."""
    names = ordered(dot.name for dot in found)
    base = alt.Chart(inline(rows_of(found, axis))).encode(
        x=alt.X("value:Q", title=axis.title, scale=scale(found, axis), axis=drawn_axis(found, axis)),
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False)),
        **SAYING,
    )
    layers = base.mark_bar(height={"band": 0.7}) + base.mark_text(align="left", dx=4).encode(text="shown:N")
    return chart(title, layers.properties(height=22 * len(names)), f"{title}: {', '.join(names)}")


def grouped_bars(title: str, found: Sequence[Bar], axis_title: str) -> Chart:
    """Draw bars under the title of their group, the name before a bar and the number behind it."""
    keys: list[str] = []
    rows: list[dict[str, Any]] = []
    headings: list[dict[str, Any]] = []
    for bar in found:
        if bar.group not in keys:
            keys.append(bar.group)
            headings.append({"key": bar.group, "words": bar.group})
        key = f"{bar.group}: {bar.name}"
        keys.append(key)
        rows.append({**asdict(bar), "key": key, "says": f"{key}: {bar.shown}"})
    labels = {f"{bar.group}: {bar.name}": bar.name for bar in found}
    names = ordered(bar.name for bar in found)
    y = alt.Y(
        "key:N",
        sort=keys,
        title=None,
        scale=alt.Scale(domain=keys),
        axis=alt.Axis(domain=False, ticks=False, labelExpr=f"({labels})[datum.label] || ''"),
    )
    longest = max(bar.value for bar in found)
    axis = alt.Axis(labelExpr=plain(",~r"), values=even_numbers(0.0, longest), grid=True)
    x = alt.X("value:Q", title=axis_title, axis=axis, scale=alt.Scale(domain=[0, BESIDE * longest], nice=False))
    colour = alt.Color("name:N", scale=alt.Scale(domain=names), legend=None)
    base = alt.Chart(inline(rows)).encode(x=x, y=y, **SAYING)
    bold = alt.Chart(inline(headings)).mark_text(align="left", fontWeight="bold")
    layers = (
        base.mark_bar(height={"band": 0.75}).encode(color=colour)
        + base.mark_text(align="left", dx=5).encode(text="shown:N")
        + bold.encode(x=alt.value(0), y=y, text="words:N")
    )
    return chart(title, layers.properties(height=ROW * len(keys)), f"{title}: {axis_title} of {', '.join(names)}")


def curves(title: str, rows: Sequence[dict[str, Any]], across: str, axis: Axis) -> Chart:
    """Draw a line for each kind.

    Args:
        rows: at, kind, value, shown, and low and high of the interval, or None
        across: what `at` is
    """
    kinds, places = ordered(row["kind"] for row in rows), sorted({row["at"] for row in rows})
    x = alt.X(
        "at:Q",
        title=across,
        scale=alt.Scale(type="log", base=2, nice=False, padding=8),
        axis=alt.Axis(values=places, labelExpr=plain(",d")),
    )
    y = alt.Y("value:Q", title=axis.title, scale=scale(rows, axis), axis=drawn_axis(rows, axis))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds), title=None, legend=legend(kinds))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=kinds), title=None, legend=legend(kinds))
    said = [{**row, "says": f"{row['kind']} at {row['at']:,}: {row['shown']}, {axis.title}"} for row in rows]
    base = alt.Chart(inline(said)).encode(x=x, y=y, color=colour)
    points = base.mark_point(filled=True, opacity=1, size=50).encode(shape=shape, **SAYING)
    layers = base.mark_line(strokeWidth=2) + points
    if any(row["low"] is not None for row in said):
        layers += base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=axis.title), y2="high:Q")
    return chart(title, layers.properties(height=220), f"{title}: {', '.join(kinds)}")


def roofline(
    title: str, roofs: Sequence[dict[str, Any]], ends: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]]
) -> Chart:
    """Draw the limits of a device at each intensity, and a point for each case.

    Args:
        roofs: precision, intensity, flops: the corners of each roof
        ends: the same for one place of each roof, where its name goes
        points: kind, precision, intensity, flops, says
    """
    kinds, precisions = ordered(row["kind"] for row in points), ordered(row["precision"] for row in roofs)
    log = alt.Scale(type="log", nice=False, padding=10)
    across, up = decades(points, roofs, "intensity"), decades(points, roofs, "flops")
    x = alt.X("intensity:Q", title="operations for each byte", scale=log, axis=across)
    y = alt.Y("flops:Q", title="operations per second", scale=log, axis=up)
    dash = alt.StrokeDash("precision:N", scale=alt.Scale(domain=precisions), legend=None)
    lines = alt.Chart(inline(list(roofs))).mark_line(strokeWidth=2).encode(x=x, y=y, strokeDash=dash)
    names = alt.Chart(inline(list(ends))).mark_text(align="right", dy=-8).encode(x=x, y=y, text="precision:N")
    marks = (
        alt.Chart(inline(list(points)))
        .mark_point(filled=True, opacity=0.85, size=45)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds), title=None, legend=legend(kinds)),
            shape=alt.Shape("precision:N", scale=alt.Scale(domain=precisions), title=None, legend=legend(precisions)),
            **SAYING,
        )
    )
    drawn = (lines + names + marks).resolve_scale(shape="independent").properties(height=340)
    return chart(title, drawn, f"{title}: roofs for {', '.join(precisions)}; points for {', '.join(kinds)}")


def decades(points: Sequence[dict[str, Any]], roofs: Sequence[dict[str, Any]], of: str) -> alt.Axis:
    """An axis with ticks at powers of ten only."""
    found = [math.log10(row[of]) for row in (*points, *roofs)]
    powers = [10.0**power for power in range(math.floor(min(found)), math.ceil(max(found)) + 1)]
    return alt.Axis(values=powers, labelExpr=DECADES)


def rows_of(found: Sequence[Dot], axis: Axis) -> list[dict[str, Any]]:
    """Dots as rows of a chart, each with its words."""
    several = len({dot.kind for dot in found}) > 1
    return [
        {**asdict(dot), "says": f"{dot.name}{f', {dot.kind}' if several else ''}: {dot.shown}, {axis.title}"}
        for dot in found
    ]


def ordered(names: Iterable[str]) -> list[str]:
    """The distinct names, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def legend(kinds: Sequence[str], place: Literal["top", "bottom"] = "top") -> alt.Legend | None:
    """A legend above or below the chart; None for a single kind."""
    if len(kinds) < 2:
        return None
    longest = max(map(len, kinds))
    columns = max(1, min(len(kinds), 40 // (longest + 4)))  # as many as a phone has room for
    return alt.Legend(orient=place, columns=columns, labelLimit=300, values=list(kinds))


def scale(found: Sequence[Any], axis: Axis) -> alt.Scale:
    """A scale from zero, or a logarithmic one around the numbers."""
    if axis.log:
        low, high = limits(found, axis)
        return alt.Scale(type="log", domain=[low, high], nice=False)
    if axis.top is not None:
        return alt.Scale(domain=[0, axis.top], clamp=True)
    return alt.Scale(zero=True, nice=True)


def limits(found: Sequence[Any], axis: Axis) -> tuple[float, float]:
    """Ends of a logarithmic axis: a little beyond the numbers, their intervals and the rule."""
    numbers = [] if axis.rule is None else [axis.rule]
    for one in found:
        row = asdict(one) if isinstance(one, Dot) else one
        numbers += [row[key] for key in ("value", "low", "high") if row.get(key)]
    low, high = min(numbers), max(numbers)
    room = max(1.03, (high / low) ** 0.04)
    return low / room, high * room


def drawn_axis(found: Sequence[Any], axis: Axis) -> alt.Axis:
    """The axis itself, with ticks at round numbers."""
    options: dict[str, Any] = {"grid": True, "tickCount": 4 if axis.bytes else 5}
    options["labelExpr"] = BYTES if axis.bytes else plain(axis.format)
    if axis.log:
        options["values"] = round_numbers(*limits(found, axis))
    return alt.Axis(**options)


def plain(number_format: str) -> str:
    """The label of a tick as an expression: Vega-Lite's own `format` may round 150 to 200, and omits labels."""
    return f"format(datum.value, '{number_format}')"


def round_numbers(low: float, high: float) -> list[float]:
    """A few round numbers between two others, for a logarithmic axis."""
    if high / low > 2.5:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = (1,) if high / low > 100 else (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7)
        found = [tick * 10.0**power for power in range(first, last + 1) for tick in ticks]
        return [float(f"{number:.6g}") for number in found if low <= number <= high]
    return even_numbers(low, high)


def even_numbers(low: float, high: float) -> list[float]:
    """About four round numbers between two others, equally far apart."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * many for many in (1, 2, 5, 10) if unit * many >= rough)
    begin = math.ceil(low / step)
    found = [float(f"{step * number:.6g}") for number in range(begin, begin + 8)]
    return [number for number in found if low <= number <= high]
