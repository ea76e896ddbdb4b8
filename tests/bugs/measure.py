"""`python -m tests.bugs.measure` measures every planted bug and writes docs/bugs.json, and docs/bugs.md made from it.

With --from-json it measures nothing and makes the Markdown again. Its last table is of measure_users_files.py.
"""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from bench.report.markdown import table_lines
from bench.report.proof_records import (
    CAUGHT_HEAD,
    CHECKS_HEAD,
    CaughtBug,
    CheckRecord,
    ComparedBug,
    PlantedBugs,
    read_bugs,
    text_of,
)
from bench.report.section import Table
from reference.cli.interrupts import end_at_once
from tests.bugs import usual
from tests.bugs.checks import CHECKS, Outcome
from tests.bugs.mutant import Mutant
from tests.bugs.mutants import MUTANTS, OURS
from tests.bugs.users_table import read_rows, section

RECORD = Path(__file__).parents[2] / "docs" / "bugs.json"
DOCUMENT = RECORD.with_suffix(".md")
SEEDS = range(20)
KINDS = {
    "F": "function", "C": "causality", "G": "gradients", "O": "optimizer step", "T": "trajectory", "S": "sampling",
    "D": "data coverage", "R": "resume", "I": "initialisation", "E": "evaluation",
}  # fmt: skip
ISSUE = "https://github.com/{}/issues/{}"
COMMIT = "https://github.com/{}/commit/{}"


def main() -> None:
    """Measure everything; write record and document."""
    if sys.argv[1:] == ["--from-json"]:
        write_document()
        return
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
    bugs = record(caught, seen, margins)
    RECORD.write_text(text_of(bugs), encoding="utf-8")
    write_document()
    print(f"{DOCUMENT}:\n{bugs.summary}")


def write_document() -> None:
    """Write docs/bugs.md from both records."""
    DOCUMENT.write_text(document(read_bugs(RECORD)), encoding="utf-8")


Seen = dict[Mutant, dict[tuple[str, str], bool]]


def record(caught: dict[Mutant, Outcome], seen: Seen, margins: dict[str, float]) -> PlantedBugs:
    """Everything that was measured."""
    tolerances = {
        kind: sorted({usual.bfloat16_tolerance(mutant.side, kind) for mutant in seen}) for kind in usual.WEIGHTS
    }
    return PlantedBugs(
        summary=summary(caught, seen),
        seeds=len(SEEDS),
        tolerances=tolerances,
        caught=tuple(caught_bug(mutant, outcome) for mutant, outcome in caught.items()),
        compared=tuple(compared_bug(mutant, one) for mutant, one in seen.items()),
        checks=tuple(
            CheckRecord(
                kind=check.letter,
                topic=KINDS[check.letter],
                check=name,
                asks=check.asks,
                mutants=sum(mutant.check is check for mutant in MUTANTS),
                right_code=margins[name],
            )
            for name, check in sorted(CHECKS.items(), key=lambda item: list(KINDS).index(item[1].letter))
        ),
    )


def caught_bug(mutant: Mutant, outcome: Outcome) -> CaughtBug:
    """A mutant and what its check found."""
    error = int(outcome.error) if outcome.error in range(1, 10000) else float(outcome.error)
    return CaughtBug(
        row=mutant.row,
        bug=mutant.name,
        source=mutant.source,
        address=address(mutant.source),
        side=str(mutant.side),
        needs=mutant.trigger,
        check=mutant.check.name,
        kind=mutant.check.letter,
        error=error if math.isfinite(error) else None,
        allowed=float(outcome.budget or 0),
        times=float(outcome.over) if math.isfinite(outcome.over) else None,
    )


def compared_bug(mutant: Mutant, one: dict[tuple[str, str], bool]) -> ComparedBug:
    """A mutant and the comparisons that see it."""
    ways = {
        f"{kind.removesuffix(' weights')}, {'bf16' if way == 'bfloat16' else way}": one[kind, way]
        for kind in usual.WEIGHTS
        for way in usual.WAYS
    }
    return ComparedBug(mutant.row, mutant.name, ways)


def document(bugs: PlantedBugs) -> str:
    """The whole text."""
    loosest = "; ".join(
        f"{kind} {' to '.join(f'{t:g}' for t in dict.fromkeys((ts[0], ts[-1])))}"
        for kind, ts in bugs.tolerances.items()
    )
    caught = Table("", CAUGHT_HEAD, tuple(bug.cells for bug in bugs.caught), words=(0, 1, 2, 3, 4, 5))
    compared = Table("", bugs.compared_head, tuple(bug.cells for bug in bugs.compared), words=(0, 1))
    checks = Table("", CHECKS_HEAD, tuple(check.cells for check in bugs.checks), words=(0, 1, 2))
    return f"""\
# Planted bugs

    python -m tests.bugs.measure        # measures all of it again and writes bugs.json and this file
    python -m pytest -k bugs            # each mutant against its check, and right code against all of them

{wrapped(bugs.summary)}

A mutant is a few words of `reference/` or `optimized/`, changed from outside: `tests/bugs/mutants.py` has the words.
Rows 1 to 43 are bugs that public implementations had, those from 44 on are our own. Each is held against the check that
is meant to catch it, in float64 on a small model: 2 layers, 3 heads, width 12. The oracle is a GPT-2 from torch's own
parts, `tests/bugs/oracle.py`, which no mutant reaches.

## What caught what

*Allowed* is the budget, and *times* how far the error is beyond it. Where *allowed* is 0, nothing may differ at all,
and *error* is how many things do, or the largest difference. An error of inf is one that stops the program or is not a
number.

{lines_of(caught)}

## What the usual ways see

The mutants inside a model, when logits and loss of one random batch are compared and nothing else. *float64*: relative
L2 of 1e-12. *1e-4* and *1e-2*: float32, `torch.allclose` with that as rtol and atol. *bf16*: products in bfloat16, and
the least tolerance at which right code passes ({loosest}).
Default weights are those of a new model, sharp ones those of the proofs: all random, attention sharp. The model has 2
layers, 4 heads, width 64; the batch is 2 x 32, in eval mode, without dropout, and all targets count. The other
{len(bugs.caught) - len(bugs.compared)} mutants are not looked at by such a comparison.

{lines_of(compared)}

## The checks

*Right code* is the largest error over budget of code without a bug, over {bugs.seeds} seeds and every side that a
mutant has.

{lines_of(checks)}

{section(read_rows())}"""


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
    sharp_only = sum(
        not any(one["default weights", way] for way in usual.WAYS) and one["sharp weights", "float64"]
        for one in seen.values()
    )
    default, sharp = ([missed[kind, way] for way in usual.WAYS] for kind in usual.WEIGHTS)
    lines = f"""\
{found} of {len(caught)} mutants are caught: {len(caught) - own} for the {real} bugs of the list and {own} of our own.
The nearest error is {min(finite):.0f} times its budget. Of the {len(seen)} inside a model, a comparison of outputs
misses {default[0]} with default weights in float64, {default[1]} in float32 with 1e-4, {default[2]} with 1e-2 and
{default[3]} in bfloat16; with sharp weights {sharp[0]}, {sharp[1]}, {sharp[2]} and {sharp[3]}.
{sharp_only} show with sharp weights alone, and {nowhere} in none of these ways: they need gradients, train mode,
dropout, targets that do not count, the padding itself, a look at what bfloat16 rounds, or scores that a finite mask
does not hide."""
    return " ".join(lines.split())


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return "\n".join(textwrap.wrap(text, 120))


def lines_of(table: Table) -> str:
    """A table in Markdown."""
    return "\n".join(table_lines(table))


def address(source: str) -> str:
    """Where an issue or a commit is found; "" for any other source."""
    for sign, pattern in (("#", ISSUE), ("@", COMMIT)):
        repository, found, number = source.partition(sign)
        if found and "/" in repository and " " not in repository:
            return pattern.format(repository, number)
    return ""


if __name__ == "__main__":
    end_at_once()
    main()
