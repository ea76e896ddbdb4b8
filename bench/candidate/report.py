"""The report on a candidate: a verdict, a table, where it first differs, and why."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bench.candidate.examination import DROPPED, TRAIN, Examination
from bench.environment import environment
from bench.formatting import WIDTH, digits, plain_table, scientific
from bench.numerics.errors import Measurement
from bench.user_code.report import Report

TITLES = {
    "logits": "logits",
    "loss": "loss",
    "gradient": "gradients",
    "trajectory": "losses of AdamW steps",
    "update": "weight updates",
    "expected": "with dropout 0.1 (in standard errors)",
}
MOST_NAMED = 8  # gradients listed by name if only gradients differ; else 3


def text(seen: Examination, width: int = WIDTH) -> str:
    """The report as plain text."""
    return report(seen).text(width)


def report(seen: Examination) -> Report:
    """The report of an examination."""
    config = seen.config
    return Report(
        seen.name,
        f"layout {seen.layout}, against reference/gpt.py in float64",
        f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, vocabulary {config.vocab_size}, block "
        f"{config.block_size}; batch {seen.batch} x time {seen.time}; random weights; {seen.device}",
        verdict(seen),
        seen.same and seen.same_start,
        lambda width: {
            "Gradients that differ": gradients(seen),
            "First difference": where(seen),
            "Likely cause": causes(seen),
            "Precision": lowering(seen),
            "What float32 cannot exclude": unseen(seen),
            "Not judged": [f"{one.name}: {one.why}" for one in seen.unjudged],
        },
        table(seen),
        (*conversion(seen), *seen.notes, *seen.remarks),
    )


def to_json(seen: Examination) -> dict[str, Any]:
    """The examination as plain values, for --json."""
    return {
        "kind": "candidate",
        "candidate": seen.name,
        "layout": seen.layout,
        "same": seen.same and seen.same_start,
        "verdict": verdict(seen),
        "precision": seen.precision,
        "config": dataclasses.asdict(seen.config),
        "measurements": [{**dataclasses.asdict(m), "allowed": seen.allowed(m)} for m in seen.report.measurements],
        "where": None if seen.where is None else dataclasses.asdict(seen.where),
        "depth": [dataclasses.asdict(one) for one in seen.depth],
        "causes": [dataclasses.asdict(cause) for cause in seen.causes],
        "lowering": None if seen.lowering is None else seen.lowering.place,
        "only_rounds": seen.only_rounds,
        "initial_weights": seen.initial,
        "unjudged": {one.name: one.why for one in seen.unjudged},
        "unseen": seen.unseen,
        "notes": [*seen.notes, *seen.remarks],
        "environment": environment(torch.device(seen.device)),
    }


def verdict(seen: Examination) -> str:
    """The result in one sentence."""
    if seen.same and not seen.same_start:
        return f"The same function, but other {'; '.join(seen.initial)}."
    if seen.same:
        exact = digits(max(m.error for m in seen.report.of("logits")))
        slope = digits(max(m.error for m in seen.report.of("gradient")))
        steps = f", {seen.steps} AdamW steps to {digits(seen.report.worst('trajectory').error)}" if seen.steps else ""
        besides = f" Not judged: {', '.join(one.name for one in seen.unjudged)}." if seen.unjudged else ""
        if seen.plain is not None:
            error, of_plain = (scientific(r.worst("logits").error) for r in (seen.report, seen.plain))
            return (
                f"In {seen.precision} it rounds no more than it may: logits off by {error}, those of plain code by "
                f"{of_plain}. Only without --precision a wrong formula shows."
            )
        if seen.only_rounds:
            agreed = f"logits agree to {exact}, gradients to {slope}{steps}"
            return f"The same function to float32 rounding: {agreed}.{besides}"
        only = ", as far as float32 can tell" if seen.precision == "float32" else ""
        agreed = f"in {seen.precision}, logits agree to {exact}, gradients to {slope}{steps}"
        return f"The same function{only}: {agreed}.{besides}"
    furthest = {m.quantity: m for m in reversed(seen.failures)}
    if seen.plain is not None:
        m = seen.failures[0]
        plain = next(p.error for p in seen.plain.measurements if (p.quantity, p.name) == (m.quantity, m.name))
        return (
            f"In {seen.precision} it rounds more than plain code: {m.name} off by {scientific(m.error)}, plain code by "
            f"{scientific(plain)}."
        )
    # of the logits, those of the usual weights and ids, if they differ
    furthest |= {m.quantity: m for m in seen.failures if m.name == "logits"}

    def far(quantity: str) -> str:
        m = furthest[quantity]
        return f"off by {scientific(m.error)}, {scientific(m.over(seen.allowed))} times its budget"

    if "logits" in furthest and {m.name for m in seen.failures if m.quantity == "logits"} <= {TRAIN, DROPPED}:
        return f"The same function, but other {furthest['logits'].name}: {far('logits')}."
    if "logits" in furthest:
        return f"Not the same function: {furthest['logits'].name} {far('logits')}."
    if "loss" in furthest:
        return f"The same logits, but another loss: {far('loss')}."
    if "gradient" in furthest:
        return f"The same forward pass, but other gradients: {furthest['gradient'].name} {far('gradient')}."
    if furthest.keys() == {"expected"}:
        m = furthest["expected"]
        return f"The same function in eval mode, but another {m.name}: off by {m.error:.1f} standard errors."
    quantity = "trajectory" if "trajectory" in furthest else "update"
    return f"The same logits and gradients, but it trains differently: {TITLES[quantity]} {far(quantity)}."


def table(seen: Examination) -> Any:
    """A row for each quantity, and for each probe's logits."""
    found = plain_table()
    found.add_column("", no_wrap=True)
    for name in ("error", "budget", "error/budget"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("largest error in", no_wrap=True)
    for title, group in groups(seen):
        worst = max(group, key=lambda m: (m.over(seen.allowed), m.error))
        limit = seen.allowed(worst)
        failed = not worst.over(seen.allowed) <= 1.0
        found.add_row(
            title,
            shown(worst, worst.error),
            "not judged" if limit is None else shown(worst, limit),
            "" if limit is None else ratio(worst, seen, failed),
            "" if len(group) == 1 or worst.error == 0.0 else worst.name,
            style="red" if failed else "",
        )
    return found


def shown(m: Measurement, value: float) -> str:
    """An error or a budget as a table cell."""
    return f"{value:.1f}" if m.quantity == "expected" else scientific(value)


def ratio(m: Measurement, seen: Examination, failed: bool) -> str:
    """error / budget as a table cell."""
    over = m.over(seen.allowed)
    return f"{over:.3g} FAILED" if failed else f"{over:.2g}"


def groups(seen: Examination) -> list[tuple[str, list[Measurement]]]:
    """Titles of the table's rows, with their measurements."""
    rows = [(m.name, [m]) for m in seen.report.measurements if m.quantity == "logits"]
    for quantity in ("loss", "gradient", "trajectory", "update", "expected"):
        group = [m for m in seen.report.measurements if m.quantity == quantity]
        if group:
            count = {"gradient": f" ({len(group)} tensors)", "trajectory": f" ({len(group)})"}.get(quantity, "")
            rows.append((TITLES[quantity] + count, group))
    return rows


def gradients(seen: Examination) -> list[str]:
    """Names of the gradients beyond their budget, largest error first."""
    group = [m for m in seen.failures if m.quantity == "gradient"]
    most = 3 if seen.failed("logits") else MOST_NAMED
    lines = [f"{m.name}  {scientific(m.error)}" + (" (no gradient)" if m.error == 1.0 else "") for m in group[:most]]
    if len(group) > most:
        lines.append(f"and {len(group) - most} more of {len(seen.report.of('gradient'))}")
    return lines


def where(seen: Examination) -> list[str]:
    """The lines on the first difference, forward and backward."""
    if seen.where is None:
        return []
    if seen.where.unmatched:
        return [
            "unknown: no tensor that the candidate computes equals an activation of the reference, so only outputs "
            "were compared"
        ]
    lines = []
    if (first := seen.where.forward) is not None:
        lines.append(f"{first.title} ({first.name})")
        lines.append(
            f"{first.agreed} activations before it agree, to {scientific(first.agreed_error)}; the last: "
            f"{first.last_agreed}"
        )
        if first.hidden:
            lines.append(
                f"may begin earlier, in activations that this candidate does not expose: {', '.join(first.hidden)}"
            )
        if first.error is None:
            lines.append("the candidate computes no tensor of this shape there")
        elif first.nearest is not None:
            times = f": {first.factor:.6g} times the right value" if first.factor is not None else ""
            lines.append(f"nearest tensor after that: {first.nearest}, off by {scientific(first.error)}{times}")
        if first.reordered:
            lines.append("it has the right numbers in another order")
    if (lost := seen.where.backward) is not None:
        lines.append(f"backward pass, the gradient of: {lost.title} ({lost.name})")
        what = "no gradient arrives" if lost.error == 1.0 else f"the gradient is off by {scientific(lost.error)}"
        lines.append(f"its value is right, {what} at {lost.nearest}; {lost.agreed} gradients behind it agree")
    return lines


def causes(seen: Examination) -> list[str]:
    """The lines on causes."""
    if seen.same or seen.plain is not None:
        return []
    if not seen.causes:
        return ["none of the known mistakes explains the difference"]
    lines = []
    for number, cause in enumerate(seen.causes):
        lines.append(f"{f'{cause.link}: ' if number else ''}{cause.what}")
        lines.append(f"  {cause.evidence}")
        lines.append(f"  fix: {cause.remedy}")
    if seen.where is not None and (rest := seen.where.rest) is not None:
        lines.append(f"not explained: with that, they differ first in: {rest.title} ({rest.name})")
    return lines


def conversion(seen: Examination) -> list[str]:
    """The note on parameters that were built in another precision."""
    if not seen.converted:
        return []
    return [
        f"its {' and '.join(seen.converted)} parameters were converted to {seen.given}; --precision as-built judges it "
        "as it is"
    ]


def lowering(seen: Examination) -> list[str]:
    """The lines on lower precisions inside a model with float64 parameters."""
    if seen.lowering is None:
        return []
    lines = [f"it computes in {seen.lowering.place}"]
    if (first := seen.lowering.first) is not None and first.error is not None:
        lines.append(
            f"first rounded activation: {first.title} ({first.name}), off by {scientific(first.error)}; {first.agreed} "
            f"before it agree, to {scientific(first.agreed_error)}"
        )
    if seen.only_rounds:
        exact, slope = (digits(seen.lowering.strict.worst(quantity).error) for quantity in ("logits", "gradient"))
        lines.append(f"with float64 in its place it is the same function: logits to {exact}, gradients to {slope}")
    else:
        lines.append("that is not the difference: all numbers above are with float64 in its place")
    return lines


def unseen(seen: Examination) -> list[str]:
    """The lines on differences too small for float32."""
    if seen.precision != "float32" or seen.only_rounds:
        return []
    return [
        "a logits error below 5e-6, or one that only attention scores of 1e4 show (a finite mask). Known mistakes "
        "that stay below: " + ("; ".join(seen.unseen) if seen.unseen else "none")
    ]
