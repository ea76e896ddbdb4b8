"""Keep the measurements of the recipes' proofs, and write build/parity.md at the end of the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.parity import Measurement, Report
from optimized import FULL, PLAIN, RUNGS, Recipe, only

QUANTITIES = {"logits": "logits", "loss": "loss", "gradient": "gradient", "trajectory": "20 steps", "update": "update"}
# What changes nothing of a forward pass and a training step in one process is proven by tests of its own.
ELSEWHERE = {"generation": "see test_parity_cached_generation.py", "distributed": "see tests/distributed/"}
TABLE = Path(__file__).parents[2] / "build" / "parity.md"
HEAD = """\
# Error over budget, for every rung in every precision

    python -m pytest tests/parity/test_parity_recipes.py -m "slow or not slow"

proves every recipe below and writes this table to build/parity.md. An error is the relative L2 distance to the readable
GPT in float64, the largest over all tensors; behind it, the error over its budget: above 1 fails. "In any recipe" is
the largest error over budget of all proven recipes that have the rung: pairs, FULL, FULL without each, the steps of the
ladder. Budgets are in bench/numerics/tolerances.py; in bfloat16 they are what plain code rounds to on the same task,
twice or three times, with caps.
"""


@dataclass(frozen=True)
class Row:
    """One proof of one recipe."""

    recipe: Recipe
    precision: str
    cells: dict[str, tuple[float, float | None]]  # by quantity: largest error; error over budget, None if not judged

    @property
    def over(self) -> float:
        return max((over for _, over in self.cells.values() if over is not None), default=0.0)


ROWS: list[Row] = []


def keep(recipe: Recipe, precision: str, report: Report, allowed: Callable[[Measurement], float | None]) -> None:
    """Take note of a proof."""
    cells: dict[str, tuple[float, float | None]] = {}
    for quantity in {m.quantity for m in report.measurements}:
        found = report.of(quantity)
        limits = [(m.error, allowed(m)) for m in found]
        judged = [error / limit for error, limit in limits if limit is not None]
        cells[quantity] = (found[0].error, max(judged) if judged else None)
    ROWS.append(Row(recipe, precision, cells))


def write_table() -> None:
    """Write the table, if there are measurements."""
    if not ROWS:
        return
    parts = [HEAD]
    for precision in dict.fromkeys(row.precision for row in ROWS):
        parts.append(f"## {precision}\n\n{table([row for row in ROWS if row.precision == precision])}")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(parts), encoding="utf-8")


def table(rows: list[Row]) -> str:
    """A row for PLAIN, each rung alone, and FULL, as far as they were proven in one precision."""
    lines = [
        f"| recipe | {' | '.join(QUANTITIES.values())} | in any recipe | recipes |",
        "|---|" + "---|" * (len(QUANTITIES) + 2),
    ]
    coarse = {name for name in ("bf16", "tf32") if all(name in row.recipe for row in rows)}
    full = FULL.plus(*coarse).without(*({"bf16", "tf32"} - coarse))
    named = {"plain": PLAIN, **{name: only(name) for name in RUNGS}, "full": FULL}
    for name, recipe in named.items():
        if name in RUNGS and RUNGS[name].slot in ELSEWHERE:
            lines.append(f"| {name} | {' | '.join([''] * len(QUANTITIES))} | {ELSEWHERE[RUNGS[name].slot]} | |")
            continue
        wanted = full if name == "full" else recipe.plus(*coarse)
        alone = next((row for row in rows if row.recipe == wanted), None)
        having = [row for row in rows if set(recipe.rungs) <= set(row.recipe.rungs)] if name in RUNGS else []
        if (alone is None and not having) or (name == "plain" and coarse):
            continue
        cells = [cell(alone, quantity) for quantity in QUANTITIES]
        worst = f"{max(row.over for row in having):.2f}" if having else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {worst} | {len(having) or ''} |")
    return "\n".join(lines) + "\n"


def cell(row: Row | None, quantity: str) -> str:
    """An error and its ratio to the budget."""
    if row is None or quantity not in row.cells:
        return ""
    error, over = row.cells[quantity]
    return f"{error:.1e}" + ("" if over is None else f" ({over:.2f})")
