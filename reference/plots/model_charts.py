"""Charts of a model's inside: embedding map, histograms of activations and gradients, samples by temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from torch import Tensor

from reference.plots.charts import PALE_TO_DARK, PLAIN_NUMBER, inline, styled, visible

BINS = 41


def embedding_chart(places: Tensor, labels: Sequence[str], share: float, title: str) -> alt.TopLevelMixin:
    """Draw tokens at their places on a plane.

    Args:
        places: (V, 2), as `flattened` gives them
        labels: the V tokens as text
        share: of the variance that the plane shows
    """
    rows = [
        {"x": round(x, 4), "y": round(y, 4), "token": visible(label), "kind": kind_of(label)}
        for (x, y), label in zip(places.tolist(), labels, strict=True)
    ]
    bare = alt.Axis(labels=False, ticks=False, grid=False, title=None)
    tokens = (
        alt.Chart(inline(rows))
        .mark_text(fontSize=13)
        .encode(
            x=alt.X("x:Q", axis=bare),
            y=alt.Y("y:Q", axis=bare),
            text="token:N",
            color=alt.Color("kind:N", title=None),
        )
    )
    reading = f"{len(rows)} tokens in the 2 directions in which they differ most, {share:.0%} of the variance"
    heading = alt.TitleParams(f"Embedding of {title}", subtitle=reading)
    return styled(tokens.properties(width=640, height=480, title=heading))


def kind_of(token: str) -> str:
    """The kind of a token, which gives its colour in the map."""
    core = token.strip()
    if not core:
        return "white space"
    if core.isnumeric():
        return "numbers"
    if not core.isalpha():
        return "signs"
    if core.isupper():
        return "capitals"
    return "vowels" if core.lower() in ("a", "e", "i", "o", "u") else "letters and words"


def histogram(values: Tensor, bound: float) -> list[tuple[float, float]]:
    """Equal bins from -bound to bound: the middle of each and its share of all values. Values beyond are left out."""
    counts = values.detach().float().flatten().histc(bins=BINS, min=-bound, max=bound)
    width = 2 * bound / BINS
    return [(-bound + (i + 0.5) * width, float(count) / values.numel()) for i, count in enumerate(counts.tolist())]


def histograms_chart(streams: Sequence[Tensor], gradients: Sequence[Tensor], title: str) -> alt.TopLevelMixin:
    """Draw histograms of the residual stream and its gradients, a row for the embedding and for each block.

    Args:
        streams, gradients: as `streams_and_gradients` gives them
    """
    rows: list[dict[str, Any]] = []
    for kind, tensors in (("activations", streams), ("gradients", gradients)):
        for place, tensor in enumerate(tensors):
            name = "embedding" if place == 0 else f"block {place - 1}"
            bound = 3 * float(tensor.float().std()) or 1.0
            for middle, share in histogram(tensor, bound):
                rows.append({"kind": kind, "place": name, "x": middle, "share": share, "spread": spread(tensor)})
    places: list[str] = list(dict.fromkeys(row["place"] for row in rows))
    bars = (
        alt.Chart()
        .mark_area(interpolate="step", color="#c2410c", opacity=0.5, line={"color": "#c2410c", "strokeWidth": 1})
        .encode(
            x=alt.X("x:Q", title=None, axis=alt.Axis(grid=False, labelExpr=PLAIN_NUMBER)),
            y=alt.Y("share:Q", title=None, axis=alt.Axis(labels=False, ticks=False, grid=False)),
        )
    )
    spreads = (
        alt.Chart().mark_text(align="right", x=295, y=12, fontSize=10, color="#555555").encode(text="min(spread):N")
    )
    grid = (
        alt.layer(bars, spreads)
        .properties(width=300, height=70)
        .facet(
            data=inline(rows),
            column=alt.Column("kind:N", title=None, sort=["activations", "gradients"]),
            row=alt.Row("place:N", title=None, sort=places, header=alt.Header(labelAngle=0, labelAlign="left")),
            spacing=8,
        )
        .resolve_scale(x="independent", y="independent")
    )
    reading = "The residual stream, and the slopes of the loss in it, each up to 3 of its standard deviations"
    return styled(grid.properties(title=alt.TitleParams(f"Inside {title}", subtitle=reading)))


def spread(tensor: Tensor) -> str:
    """The standard deviation as text."""
    return f"deviation {float(tensor.float().std()):.2g}"


def temperature_chart(
    samples: Mapping[float, Sequence[tuple[str, float]]], prompt: str, title: str
) -> alt.TopLevelMixin:
    """Draw a text for each temperature, a token the darker the more probable it was.

    Args:
        samples: temperature -> tokens as text and how probable each was
    """
    rows = [
        {"temperature": f"{temperature:g}", "place": place, "token": visible(token), "probability": round(share, 4)}
        for temperature, tokens in samples.items()
        for place, (token, share) in enumerate(tokens)
    ]
    widest = max(len(str(row["token"])) for row in rows)
    count = max(len(tokens) for tokens in samples.values())
    y = alt.Y("temperature:N", title="temperature", sort=[f"{t:g}" for t in samples])
    x = alt.X("place:O", axis=None)
    base = alt.Chart(inline(rows)).encode(x=x, y=y)
    shade = alt.Scale(domain=[0, 1], range=PALE_TO_DARK[:4])
    cells = base.mark_rect().encode(
        color=alt.Color("probability:Q", scale=shade, legend=alt.Legend(format="~%", gradientLength=100))
    )
    letters = base.mark_text(font="monospace", fontSize=11).encode(
        text="token:N", color=alt.condition("datum.probability > 0.6", alt.value("white"), alt.value("black"))
    )
    heading = alt.TitleParams(f"What {title} says after {prompt!r}", subtitle="the darker, the more probable it was")
    size = {"width": count * max(13, 7 * widest + 4), "height": 26 * len(samples)}
    return styled((cells + letters).properties(title=heading, **size))
