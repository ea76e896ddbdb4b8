"""The planted bugs as a table: `python -m tests.bugs.table` writes docs/bugs.md."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from reference.cli.interrupts import end_at_once
from tests.bugs import usual
from tests.bugs.checks import CHECKS, Outcome
from tests.bugs.mutant import Mutant
from tests.bugs.mutants import MUTANTS, OURS

DOCUMENT = Path(__file__).parents[2] / "docs" / "bugs.md"
SEEDS = range(20)
KINDS = {
    "F": "function", "C": "causality", "G": "gradients", "O": "optimizer step", "T": "trajectory", "S": "sampling",
    "D": "data coverage", "R": "resume", "I": "initialisation", "E": "evaluation",
}  # fmt: skip
ISSUE = "https://github.com/{}/issues/{}"
COMMIT = "https://github.com/{}/commit/{}"


def main() -> None:
    """Measure everything and write the document."""
    torch.set_num_threads(1)
    console = Console(stderr=True)
    caught: dict[Mutant, Outcome] = {}
    for mutant in track(MUTANTS, "mutants", console=console):
        assert not mutant.check(mutant.side).fails, f"{mutant.check.name} fails without a bug"
        with mutant.injected():
            caught[mutant] = mutant.check(mutant.side)
    seen = {mutant: usual.seen(mutant) for mutant in track(MUTANTS, "usual ways", console=console) if mutant.in_model}
    margins: dict[str, float] = {}
    sides = dict.fromkeys((mutant.check.name, mutant.side) for mutant in MUTANTS)
    for name, side in track(sides, "right code", console=console):
        margins[name] = max(margins.get(name, 0.0), *(CHECKS[name](side, seed).over for seed in SEEDS))
    DOCUMENT.write_text(document(caught, seen, margins), encoding="utf-8")
    print(f"{DOCUMENT}:\n{summary(caught, seen)}")


Seen = dict[Mutant, dict[tuple[str, str], bool]]


def document(caught: dict[Mutant, Outcome], seen: Seen, margins: dict[str, float]) -> str:
    """The whole text."""
    tolerances = {
        kind: sorted({usual.bfloat16_tolerance(mutant.side, kind) for mutant in seen}) for kind in usual.WEIGHTS
    }
    loosest = "; ".join(
        f"{kind} {' to '.join(f'{t:g}' for t in dict.fromkeys((ts[0], ts[-1])))}" for kind, ts in tolerances.items()
    )
    usually, checks = table_of_the_usual(seen), table_of_the_checks(margins)
    return f"""\
# Planted bugs

    python -m tests.bugs.table          # measures all of it again and writes this file
    python -m pytest -k bugs            # each mutant against its check, and right code against all of them

{summary(caught, seen)}

A mutant is a few words of `reference/` or `optimized/`, changed from outside: `tests/bugs/mutants.py` has the words.
Rows 1 to 43 are bugs that public implementations had, those from 44 on are our own. Each is held against the check that
is meant to catch it, in float64 at smoke size: 2 layers, 3 heads, width 12. The oracle is a GPT-2 from torch's own
parts, `tests/bugs/oracle.py`, which no mutant reaches.

## What caught what

*Allowed* is the budget, and *times* how far the error is beyond it. Where *allowed* is 0, nothing may differ at all,
and *error* is how many things do, or the largest difference. An error of inf is one that stops the program or is not a
number.

{table_of_the_caught(caught)}

## What the usual ways see

The mutants inside a model, when logits and loss of one random batch are compared and nothing else. *float64*: relative
L2 of 1e-12. *1e-4* and *1e-2*: float32, `torch.allclose` with that as rtol and atol. *bf16*: products in bfloat16, and
the least tolerance at which right code passes ({loosest}).
Default weights are those of a new model, hot ones those of the proofs: all random, attention sharp. The model has 2
layers, 4 heads, width 64; the batch is 2 x 32, in eval mode, without dropout, and all targets count. The other
{len(caught) - len(seen)} mutants are not looked at by such a comparison.

{usually}

## The checks

*Right code* is the largest error over budget of code without a bug, over {len(SEEDS)} seeds and every side that a
mutant has.

{checks}
"""


def summary(caught: dict[Mutant, Outcome], seen: Seen) -> str:
    """Counts, in sentences."""
    found = sum(outcome.fails for outcome in caught.values())
    finite = [o.over for o in caught.values() if math.isfinite(o.over)]
    real = len({mutant.row for mutant in caught if mutant.source != OURS})
    own = sum(mutant.source == OURS for mutant in caught)
    missed = {
        (kind, way): sum(not one[kind, way] for one in seen.values()) for kind in usual.WEIGHTS for way in usual.WAYS
    }
    nowhere = sum(not any(one.values()) for one in seen.values())
    hot_only = sum(
        not any(one["default weights", way] for way in usual.WAYS) and one["hot weights", "float64"]
        for one in seen.values()
    )
    default, hot = ([missed[kind, way] for way in usual.WAYS] for kind in usual.WEIGHTS)
    lines = f"""\
{found} of {len(caught)} mutants are caught: {len(caught) - own} for the {real} bugs of the list and {own} of our own.
The nearest error is {min(finite):.0f} times its budget. Of the {len(seen)} inside a model, a comparison of outputs
misses {default[0]} with default weights in float64, {default[1]} in float32 with 1e-4, {default[2]} with 1e-2 and
{default[3]} in bfloat16; with hot weights {hot[0]}, {hot[1]}, {hot[2]} and {hot[3]}. {hot_only} show with hot weights
alone, and {nowhere} in none of these ways: they need gradients, train mode, dropout, targets that do not count, the
padding itself, a look at what bfloat16 rounds, or scores that a finite mask does not hide."""
    return "\n".join(textwrap.wrap(" ".join(lines.split()), 120))


def table_of_the_caught(caught: dict[Mutant, Outcome]) -> str:
    lines = ["| # | bug | met in | of | needs | check | error | allowed | times |", "|---|" + "---|" * 8]
    for mutant, outcome in caught.items():
        times = "" if math.isinf(outcome.over) else f"{outcome.over:.1e}"
        check = f"{mutant.check.letter} {mutant.check.name}"
        cells = (identity(mutant), linked(mutant.source), mutant.side, mutant.trigger, check)
        error = f"{outcome.error:.0f}" if outcome.error in range(1, 10000) else f"{outcome.error:.1e}"
        lines.append(f"| {' | '.join(map(str, cells))} | {error} | {outcome.budget or 0:.0e} | {times} |")
    return "\n".join(lines).replace("| 0e+00 |", "| 0 |")


def table_of_the_usual(seen: Seen) -> str:
    heads = [
        f"{kind.removesuffix(' weights')}, {'bf16' if way == 'bfloat16' else way}"
        for kind in usual.WEIGHTS
        for way in usual.WAYS
    ]
    lines = [f"| # | bug | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for mutant, one in seen.items():
        cells = ("seen" if one[kind, way] else "-" for kind in usual.WEIGHTS for way in usual.WAYS)
        lines.append(f"| {identity(mutant)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_the_checks(margins: dict[str, float]) -> str:
    lines = ["| kind | check | asks | mutants | right code |", "|---|---|---|---|---|"]
    for name, check in sorted(CHECKS.items(), key=lambda item: list(KINDS).index(item[1].letter)):
        number = sum(mutant.check is check for mutant in MUTANTS)
        kind, margin = f"{check.letter}, {KINDS[check.letter]}", f"{margins[name]:.2g}"
        lines.append(f"| {kind} | {name} | {check.asks} | {number} | {margin} |")
    return "\n".join(lines)


def identity(mutant: Mutant) -> str:
    """The first two cells of a mutant's row."""
    return f"{mutant.row} | {mutant.name}"


def linked(source: str) -> str:
    """An issue or a commit with its address; any other source as it is."""
    for sign, address in (("#", ISSUE), ("@", COMMIT)):
        repository, found, number = source.partition(sign)
        if found and "/" in repository and " " not in repository:
            return f"[{source}]({address.format(repository, number)})"
    return source


if __name__ == "__main__":
    end_at_once()
    main()
