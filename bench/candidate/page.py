"""The report on a candidate as one HTML page, with its drawings inside and no scripts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.candidate.examination import Depth, Examination
from bench.candidate.report import conversion, groups, lowering, ratio, shown, unseen, verdict, where
from bench.environment import environment
from bench.formatting import scientific
from bench.numerics.budgets import BUDGETS

HERE = Path(__file__).parent
STYLE = HERE.parent / "report" / "page.css"  # of `nox -s report`; a file, as that room imports this one
LEAST = 1e-17  # the lower end of the axis of errors
TOP, BOTTOM = 15.0, 235.0  # the ends of that axis in a drawing
KNOWN = ("device", "cpu", "threads", "system", "python", "commit")


def page(seen: Examination) -> str:
    """The whole page. Names, code and messages of the user are escaped by the template."""
    c = seen.config
    first = next((one for one in seen.depth if one.state == "first"), None)
    return rendered(
        "page.html",
        name=seen.name,
        about=(
            f"layout {seen.layout}, against reference/gpt.py in float64; {c.n_layer} layers, {c.n_head} heads, width "
            f"{c.n_embd}, vocabulary {c.vocab_size}, block {c.block_size}; batch {seen.batch} x time {seen.time}"
        ),
        same=seen.same and seen.same_start,
        verdict=verdict(seen),
        precision=lowering(seen) + unseen(seen),
        causes=seen.causes if not seen.same else [],
        boxes=boxes(seen),
        first="" if first is None else first.title,
        where=where(seen),
        charts=[activations(seen), gradients(seen)],
        measured=measured(seen),
        notes=[*conversion(seen), *seen.notes, *seen.remarks, *(f"{one.name}: {one.why}" for one in seen.unjudged)],
    )


def text_page(name: str, about: str, verdict: str, same: bool, report: str) -> str:
    """A report of another audit as a page: its verdict, its text, the environment."""
    return rendered("text_page.html", name=name, about=about, verdict=verdict, same=same, report=report)


def rendered(template: str, **values: Any) -> str:
    """A template with the style of the report's page and the environment; values are escaped."""
    surroundings = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = STYLE.read_text(encoding="utf-8")
    return surroundings.get_template(template).render(style=style, environment=facts(), **values)


def boxes(seen: Examination) -> list[dict[str, str]]:
    """Embedding, blocks, last norm and logits, each right, wrong, or the first wrong one."""
    found: dict[str, list[Depth]] = {}
    for one in seen.depth:
        block = re.match(r"h\.(\d+)\.", one.name)
        label = f"block {block[1]}" if block else {"ln_f": "last norm", "logits": "logits"}.get(one.name, "embedding")
        found.setdefault(label, []).append(one)
    drawn = []
    for label, group in found.items():
        states = [one.state for one in group]
        state = "first" if "first" in states else "differs" if "differs" in states else "agrees"
        title = next((one.title for one in group if one.state == "first"), label)
        drawn.append({"label": label, "state": state, "title": title})
    if len(drawn) > 12:  # a deep model: the blocks around the first difference
        place = next((n for n, box in enumerate(drawn) if box["state"] == "first"), 0)
        start = min(max(0, place - 5), len(drawn) - 12)
        drawn = drawn[start : start + 12]
    return drawn


def activations(seen: Examination) -> dict[str, Any]:
    """The drawing of activations."""
    rows = [(one.name, one.title, one.error, one.state) for one in seen.depth]
    words = "Relative L2 distance of the candidate's nearest tensor from each activation, in order of execution."
    limit = BUDGETS[seen.precision].gradient if seen.precision in BUDGETS else None
    return chart("Errors of activations along the depth", words, rows, limit)


def gradients(seen: Examination) -> dict[str, Any]:
    """The drawing of gradients, in the order of the model."""
    rows = [
        (m.name, "gradient", m.error, "agrees" if m.over(seen.allowed) <= 1.0 else "differs")
        for m in sorted(seen.report.of("gradient"), key=lambda m: depth_of(m.name, seen.config.n_layer))
    ]
    limit = next((seen.allowed(m) for m in seen.report.of("gradient")), None)
    return chart("Errors of gradients along the depth", "Relative L2 distance of each gradient.", rows, limit)


def depth_of(name: str, n_layer: int) -> int:
    """The block of a weight: -1 for embeddings, n_layer for the last norm."""
    block = re.match(r"h\.(\d+)\.", name)
    return int(block[1]) if block else n_layer if name.startswith("ln_f") else -1


def chart(
    title: str, words: str, rows: Sequence[tuple[str, str, float | None, str]], limit: float | None
) -> dict[str, Any]:
    """Dots from left to right on a logarithmic axis of errors, and the table of their numbers.

    Args:
        rows: name, title, error (None for hidden ones) and state
        limit: the budget, as a line
    """
    width = max(360, 80 + 12 * len(rows))
    points = [
        {
            "x": 70 + 12 * n,
            "y": height(error),
            "state": state,
            "title": f"{what} ({name})",
            "error": worded(error),
        }
        for n, (name, what, error, state) in enumerate(rows)
        if error is not None
    ]
    table = [{"name": name, "title": what, "error": worded(error), "state": state} for name, what, error, state in rows]
    ticks = [{"y": height(10.0**power), "label": f"1e{power}" if power else "1"} for power in range(-16, 1, 4)]
    return {
        "title": title,
        "words": words,
        "width": width,
        "ticks": ticks,
        "points": points,
        "rows": table,
        "budget": None if limit is None else height(limit),
    }


def worded(error: float | None) -> str:
    """An error as text."""
    return "" if error is None else scientific(error) if math.isfinite(error) else "not finite"


def height(error: float) -> float:
    """Where an error lies on the axis; errors above 10 and not finite ones at its upper end."""
    bounded = 10.0 if not math.isfinite(error) else min(max(error, LEAST), 10.0)
    share = math.log10(bounded / LEAST) / math.log10(10.0 / LEAST)
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def measured(seen: Examination) -> list[dict[str, Any]]:
    """The rows of the report's table."""
    found = []
    for title, group in groups(seen):
        worst = max(group, key=lambda m: (m.over(seen.allowed), m.error))
        limit, failed = seen.allowed(worst), not worst.over(seen.allowed) <= 1.0
        found.append(
            {
                "title": title,
                "error": shown(worst, worst.error),
                "budget": "not judged" if limit is None else shown(worst, limit),
                "over": "" if limit is None else ratio(worst, seen, failed),
                "worst": "" if len(group) == 1 or worst.error == 0.0 else worst.name,
                "failed": failed,
            }
        )
    return found


def save(text: str, path: Path) -> None:
    """Write a page. Raises ValueError, one line, if that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--html {path}: cannot be written ({error.strerror})") from None


def facts() -> list[tuple[str, str]]:
    """Machine and software."""
    here = environment(torch.device("cpu"))
    packages = [(name, str(version)) for name, version in here["packages"].items() if version is not None]
    return [*((name, "n/a" if here[name] is None else str(here[name])) for name in KNOWN), *packages]
