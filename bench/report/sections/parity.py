"""Parity: the error of each contender over its budget, in this run and in the tests."""

from __future__ import annotations

from typing import Any

from bench.formatting import NOT_THE_SAME, scientific
from bench.report.charts import Axis, Dot, dots, ordered
from bench.report.proof_records import QUANTITIES, Parity
from bench.report.section import Table, View
from bench.suite.result_file import Result
from bench.suite.scaling import MIDDLE, size_of

WORDS = (
    "A contender is timed only after it was proven on the same device: logits and loss at the size and shape that are "
    "timed, every gradient and steps of AdamW there or on a smaller batch, against Hugging Face's model in float64, "
    "and the most probable tokens of generated texts against the readable model. The recipes of the ablation are "
    "proven on a small model. Each precision has its budget for rounding; the number is the largest error over its "
    "budget, and above 1 fails. An arrow at the right end is a number beyond the scale.",
)
TESTED = (
    "The tests prove every rung in every precision, on one CPU: the largest relative L2 distance to the readable model "
    "in float64 over all tensors, over its budget. Above 1 fails.",
)
OVER = Axis("largest error / budget", rule=1.0, top=1.1)


def views(result: Result) -> tuple[View, ...]:
    """A view for each size; the sizes of the scaling section share one."""
    together: dict[str, list[dict[str, Any]]] = {}
    scaling = {MIDDLE.size, *(size_of(point["axis"], point["value"]) for point in result["scaling"])}
    for found in result["parity"]:
        of = MIDDLE.size if found["size"] in scaling else found["size"]
        together.setdefault(of, []).append(found)
    return tuple(view(result, of, found) for of, found in together.items())


def view(result: Result, of: str, found: list[dict[str, Any]]) -> View:
    """The proofs at a size."""
    scaling = of == MIDDLE.size
    shown = [
        Dot(one["size"], one["contender"], over, f"{share(over)} in {precision}")
        if scaling
        else Dot(one["contender"], precision, over, share(over))
        for one in found
        if not one["unlike"]
        for precision, over in one["over"].items()
    ]
    # short, as a phone has no room for the reason, which is in the table
    notes = {one["contender"]: NOT_THE_SAME for one in found if one["unlike"]}
    precisions = [] if scaling else [precision for one in result["parity"] for precision in one["over"]]
    title = f"Error over budget, {of}"
    charts = (dots(title, shown, OVER, side_by_side=False, all_kinds=precisions, notes=notes),) if shown else ()
    return View(of, charts, (table(of, found),))


def table(of: str, found: list[dict[str, Any]]) -> Table:
    """A row for each proof."""
    precisions = ordered(precision for one in found for precision in one["over"])
    rows = [
        (
            one["contender"] if one["size"] == of else f"{one['contender']}, {one['size']}",
            "yes" if one["passed"] else "no",
            *(share(one["over"][precision]) if precision in one["over"] else "" for precision in precisions),
            "n/a" if one["logits"] is None else scientific(one["logits"]),
            " x ".join(map(str, one["shape"])),
            one["why"],
        )
        for one in found
    ]
    head = ("contender", "passed", *(f"error / budget, {p}" for p in precisions), "logits, relative L2", "B x T", "why")
    return Table(f"Proofs at {of}", head, tuple(rows), words=(0, 1, len(head) - 1))


def share(over: float) -> str:
    """Error / budget as text: 0.84, or 7,500."""
    return f"{over:.2g}" if over < 10.0 else f"{over:,.0f}"


def tested_views(proofs: Parity) -> tuple[View, ...]:
    """A view for each precision that the tests prove."""
    found = []
    head = ("recipe", *QUANTITIES.values())
    for precision, recipes in proofs.precisions.items():
        shown = [
            Dot(one.recipe, words, error.over, str(error))
            for one in recipes
            for quantity, words in QUANTITIES.items()
            if (error := one.errors.get(quantity)) is not None and error.over is not None
        ]
        rows = tuple(
            (one.recipe, *(str(one.errors.get(quantity, "")) for quantity in QUANTITIES))
            for one in recipes
            if one.errors
        )
        title = f"Error (over budget) in {precision}"
        charts = (dots(title, shown, OVER, side_by_side=False),) if shown else ()
        found.append(View(precision, charts, (Table(title, head, rows),)))
    return tuple(found)
