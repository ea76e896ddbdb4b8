"""What the proofs of the recipes measured: build/parity.json and build/parity.md, written when the tests end.

`python -m tests.parity.observed` makes docs/parity.md from docs/parity.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.parity import Measurement, Report
from bench.report.markdown import table_lines
from bench.report.proof_records import QUANTITIES, MeasuredError, Parity, ProvenRecipe, read_parity, text_of
from bench.report.section import Table
from optimized import FULL, PLAIN, RUNGS, Recipe, only

# What changes nothing of a forward pass and a training step in one process is proven by tests of its own.
ELSEWHERE = {"generation": "test_parity_cached_generation.py", "distributed": "tests/distributed/"}
ROOT = Path(__file__).parents[2]
RECORD, COMMITTED = ROOT / "build" / "parity.json", ROOT / "docs" / "parity.json"
HEAD = """\
# Error over budget, for every rung in every precision

    python -m pytest tests/parity/test_parity_recipes.py -m "slow or not slow"

proves every recipe below and writes build/parity.json, the data of these tables. An error is the relative L2 distance
to the readable GPT in float64, the largest of all tensors. In brackets: error / budget; above 1 fails. "In any recipe":
the largest error / budget of all proven recipes with the rung (pairs, FULL, FULL without one rung, cumulative ones).
Budgets are in bench/numerics/budgets.py. In bfloat16 a budget is two or three times the rounding of plain code on
the same task, with a cap. Words: [glossary](glossary.md).
"""


@dataclass(frozen=True)
class Row:
    """One proof of one recipe."""

    recipe: Recipe
    precision: str
    errors: dict[str, MeasuredError]  # by quantity

    @property
    def over(self) -> float:
        return max((one.over for one in self.errors.values() if one.over is not None), default=0.0)


ROWS: list[Row] = []


def keep(recipe: Recipe, precision: str, report: Report, allowed: Callable[[Measurement], float | None]) -> None:
    """Take note of a proof."""
    errors: dict[str, MeasuredError] = {}
    for quantity in {m.quantity for m in report.measurements}:
        found = report.of(quantity)
        limits = [(m.error, allowed(m)) for m in found]
        judged = [error / limit for error, limit in limits if limit is not None]
        errors[quantity] = MeasuredError(found[0].error, max(judged) if judged else None)
    ROWS.append(Row(recipe, precision, errors))


def write_table() -> None:
    """Write record and table of what was proven, if anything was."""
    if not ROWS:
        return
    precisions = dict.fromkeys(row.precision for row in ROWS)
    parity = Parity({one: recipes_of([row for row in ROWS if row.precision == one]) for one in precisions})
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(text_of(parity), encoding="utf-8")
    RECORD.with_suffix(".md").write_text(document(parity), encoding="utf-8")


def recipes_of(rows: list[Row]) -> tuple[ProvenRecipe, ...]:
    """PLAIN, each rung alone, and FULL, as far as they were proven in one precision."""
    recipes = []
    coarse = {name for name in ("bf16", "tf32") if all(name in row.recipe for row in rows)}
    full = FULL.plus(*coarse).without(*({"bf16", "tf32"} - coarse))
    named = {"plain": PLAIN, **{name: only(name) for name in RUNGS}, "full": FULL}
    for name, recipe in named.items():
        if name in RUNGS and RUNGS[name].slot in ELSEWHERE:
            recipes.append(ProvenRecipe(name, {}, None, None, ELSEWHERE[RUNGS[name].slot]))
            continue
        wanted = full if name == "full" else recipe.plus(*coarse)
        alone = next((row for row in rows if row.recipe == wanted), None)
        having = [row for row in rows if set(recipe.rungs) <= set(row.recipe.rungs)] if name in RUNGS else []
        if (alone is None and not having) or (name == "plain" and coarse):
            continue
        errors = {} if alone is None else {one: alone.errors[one] for one in QUANTITIES if one in alone.errors}
        worst = max(row.over for row in having) if having else None
        recipes.append(ProvenRecipe(name, errors, worst, len(having) or None, ""))
    return tuple(recipes)


def document(parity: Parity) -> str:
    """The whole text."""
    found = [HEAD]
    for precision, recipes in parity.precisions.items():
        head = ("recipe", *QUANTITIES.values(), "in any recipe", "recipes")
        table = Table(precision, head, tuple(cells(recipe) for recipe in recipes))
        found.append("\n".join((f"## {precision}", "", *table_lines(table), "")))
    return "\n".join(found)


def cells(recipe: ProvenRecipe) -> tuple[str, ...]:
    """A row of the table."""
    worst = "" if recipe.worst_over is None else f"{recipe.worst_over:.2f}"
    elsewhere = f"see {recipe.proven_in}" if recipe.proven_in else worst
    errors = (str(recipe.errors.get(quantity, "")) for quantity in QUANTITIES)
    return (recipe.recipe, *errors, elsewhere, str(recipe.recipes or ""))


if __name__ == "__main__":
    COMMITTED.with_suffix(".md").write_text(document(read_parity(COMMITTED)), encoding="utf-8")
