"""Pictures: loss curves from the logs of runs, attention maps over a prompt.

Drawn with Vega-Lite, which needs no browser and no network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from reference.checkpoints.run_folder import read_log

SUFFIXES = (".png", ".svg", ".html")
SHARPNESS = 2.0  # pixels of a PNG for each unit of the drawing
MOST_CELLS = 300_000  # of attention maps in one picture: more takes minutes and shows nothing
TRAINING, VALIDATION = "#9aa7b8", "#c2410c"
PALE_TO_DARK = ["#ffffff", "#fde2c8", "#f79a58", "#c2410c", "#4a1204"]
FUTURE = "#e8ebf0"
PLAIN_NUMBER = "format(datum.value, ',~r')"  # the label of a tick: 0, 0.5 or 10,000, never 1e+4


def check_picture(path: Path) -> None:
    """Raise a ValueError unless a picture of this name can be written: format and folder."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"picture {str(path)!r}: give a name that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"picture {str(path)!r}: there is no folder {str(path.parent)!r}")


def write_picture(chart: alt.TopLevelMixin, path: Path) -> Path:
    """Write a chart in the format of the name's suffix, whole or not at all; returns `path`."""
    check_picture(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        if path.suffix == ".html":
            chart.save(str(part), inline=True)  # with the scripts inside: it opens without a network
        else:
            chart.save(str(part), scale_factor=SHARPNESS)
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk's error names no file
    finally:
        part.unlink(missing_ok=True)
    return path


def draw_losses(runs: Sequence[Path], path: Path) -> Path:
    """Draw the losses in the logs of runs over their steps, and write the picture; returns `path`.

    Training losses are means over a log interval, faint; validation losses are strong, with a point where each was
    measured. One run has a colour for each of the two, of several runs each has its own.
    """
    check_picture(path)
    names = distinct_names(runs)
    training: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    for run, name in zip(runs, names, strict=True):
        records = read_log(run)
        training += [{"run": name, "step": r["step"], "loss": r["loss"]} for r in records if "loss" in r]
        validation += [
            {"run": name, "step": r["step"], "loss": r["validation_loss"]} for r in records if "validation_loss" in r
        ]
    if not training and not validation:
        raise ValueError(f"{', '.join(map(str, runs))}: nothing is logged yet; let the run go on for a while")
    return write_picture(loss_chart(names, training, validation), path)


def loss_chart(
    names: Sequence[str], training: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]
) -> alt.TopLevelMixin:
    """Draw loss curves.

    Args:
        names: of the runs, each once
        training, validation: rows of run, step and loss
    """
    kinds = alt.Scale(domain=["training", "validation"])
    if len(names) == 1:
        kinds.range = [TRAINING, VALIDATION]
        colour = alt.Color("kind:N", scale=kinds, title=None)
        title = names[0]
        style = {}
    else:
        colour = alt.Color("run:N", title="run", scale=alt.Scale(domain=list(names)), sort=None)
        kinds.range = [0.3, 1.0]
        title = "Loss of " + str(len(names)) + " runs"
        style = {"opacity": alt.Opacity("kind:N", scale=kinds, title=None)}
    x = alt.X("step:Q", title="step", axis=alt.Axis(format=",d", tickMinStep=1, grid=False))
    y = alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False, nice=True))
    rows = [{**row, "kind": "training"} for row in training]
    curves = alt.Chart(inline(rows)).mark_line(strokeWidth=1.5).encode(x, y, colour, **style)
    rows = [{**row, "kind": "validation"} for row in validation]
    points = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=28))
        .encode(x, y, colour, **style)
    )
    return styled(
        (curves + points).properties(
            width=640, height=360, title=alt.TitleParams(title, subtitle=last_validations(names, validation))
        )
    )


def last_validations(names: Sequence[str], validation: Sequence[dict[str, Any]]) -> list[str]:
    """For each run, a line with its last validation loss."""
    lines = []
    for name in names:
        rows = [row for row in validation if row["run"] == name]
        if rows:
            last = max(rows, key=lambda row: int(row["step"]))
            of = f"{name}: " if len(names) > 1 else ""
            lines.append(f"{of}validation loss {last['loss']:.4f} after {last['step']:,} steps")
    return lines


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, or the whole path where two folders are called the same."""
    short = [run.resolve().name for run in runs]
    names = [str(run) if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the run {name} is named twice: name each run once")
    return names


def draw_attention(
    maps: NDArray[np.floating[Any]],
    labels: Sequence[str],
    layers: Sequence[int],
    heads: Sequence[int],
    title: str,
    path: Path,
) -> Path:
    """Draw attention maps as a grid, a row for each layer and a column for each head, and write it; returns `path`.

    Args:
        maps: (n_layer, n_head, T, T), as `attention_maps` gives them
        labels: the T tokens as text
        layers, heads: which of them to draw
    """
    check_picture(path)
    T = len(labels)
    cells = len(layers) * len(heads) * T * (T + 1) // 2
    if cells > MOST_CELLS:
        raise ValueError(
            f"{len(layers)} x {len(heads)} maps of {T} tokens are {cells:,} cells, of which a picture takes "
            f"{MOST_CELLS:,}: give a shorter prompt, or choose with --layer and --head"
        )
    return write_picture(attention_chart(maps, labels, layers, heads, title), path)


def attention_chart(
    maps: NDArray[np.floating[Any]],
    labels: Sequence[str],
    layers: Sequence[int],
    heads: Sequence[int],
    title: str,
) -> alt.TopLevelMixin:
    """Make the grid of `draw_attention`: a cell for each pair of tokens of which one may attend to the other."""
    T = len(labels)
    cell = 15 if len(layers) * len(heads) == 1 else max(5, min(13, 900 // (len(heads) * T)))
    rows = [
        {
            "layer": layer,
            "head": head,
            "query": t,
            "key": s,
            "weight": round(float(maps[layer, head, t, s]), 4),
        }
        for layer in layers
        for head in heads
        for t in range(T)
        for s in range(t + 1)
    ]
    label = alt.Axis(
        title=None,
        labelExpr=f"{[visible(text) for text in labels]}[datum.value]",
        labelFont="monospace",
        labelFontSize=max(5, min(10, cell - 2)),
        labelOverlap=False,
        ticks=False,
        domain=False,
    )
    positions = alt.Scale(domain=list(range(T)))
    below = label.copy()
    below.labelAngle = -90 if any(len(visible(text)) > 1 for text in labels) else 0
    squares = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X("key:O", scale=positions, axis=below),
            y=alt.Y("query:O", scale=positions, axis=label),
            color=alt.Color(
                "weight:Q",
                title="attention",
                # the root gives the many small weights a colour of their own
                scale=alt.Scale(type="sqrt", domain=[0, 1], range=PALE_TO_DARK),
                legend=alt.Legend(values=[0, 0.05, 0.2, 0.5, 1], format=".2~f", gradientLength=140),
            ),
            tooltip=["layer:O", "head:O", "query:O", "key:O", "weight:Q"],
        )
        .properties(width=cell * T, height=cell * T)
    )
    of_head = alt.Header(labelFontSize=11, labelExpr="'head ' + datum.value")
    of_layer = alt.Header(labelFontSize=11, labelExpr="'layer ' + datum.value")
    grid = squares.facet(
        data=inline(rows),
        column=alt.Column("head:O", title=None, header=of_head),
        row=alt.Row("layer:O", title=None, header=of_layer),
        spacing=8,
    )
    reading = "Row: a token. The darker a cell, the more the row's token takes from the column's; grey is the future."
    return styled(grid.properties(title=alt.TitleParams(f"Attention of {title}", subtitle=reading)), FUTURE)


def inline(rows: Sequence[dict[str, Any]]) -> alt.Data:
    """Put rows inside the chart, which then needs no file beside it."""
    return alt.Data(values=list(rows))  # type: ignore[no-untyped-call]


def visible(token: str) -> str:
    """A token as a label, with marks for white space."""
    marks = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in token)


def styled(chart: Any, inside: str | None = None) -> alt.TopLevelMixin:
    """Set the fonts and margins of all pictures; `inside` is the colour of the plotted area."""
    styled_chart: alt.TopLevelMixin = (
        chart.configure(background="white", padding=12, font="sans-serif")
        .configure_title(anchor="start", fontSize=15, subtitleFontSize=12, subtitleColor="#555555", offset=10)
        .configure_axis(labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#eeeeee")
        .configure_legend(labelFontSize=11, titleFontSize=12, titleFontWeight="normal")
        .configure_view(stroke=None, fill=inside)
    )
    return styled_chart
