"""docs/bugs.md has a row for each planted bug; its numbers differ from machine to machine and are not compared."""

from __future__ import annotations

from tests.bugs.checks import CHECKS
from tests.bugs.mutants import MUTANTS
from tests.bugs.table import DOCUMENT, identity, linked

AGAIN = "out of date: run `python -m tests.bugs.table`"


def sections() -> dict[str, list[str]]:
    """The rows of each table of the document, without its head, by the title of the section."""
    found: dict[str, list[str]] = {}
    for part in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, rest = part.partition("\n")
        found[title] = [line for line in rest.splitlines() if line.startswith("|")][2:]
    return found


def test_every_mutant_has_its_row_in_order_with_source_side_trigger_and_check() -> None:
    expected = [
        f"| {identity(m)} | {linked(m.source)} | {m.side} | {m.trigger} | {m.check.letter} {m.check.name} |"
        for m in MUTANTS
    ]
    rows = sections()["What caught what"]
    found = [row[: len(start)] for row, start in zip(rows, expected, strict=False)]
    assert found == expected, AGAIN
    assert len(rows) == len(expected), AGAIN


def test_every_mutant_inside_a_model_is_in_the_table_of_the_usual_ways() -> None:
    expected = [f"| {identity(mutant)} |" for mutant in MUTANTS if mutant.in_model]
    rows = sections()["What the usual ways see"]
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=False)] == expected, AGAIN
    assert len(rows) == len(expected), AGAIN


def test_every_check_has_its_row_with_its_question() -> None:
    rows = sections()["The checks"]
    assert len(rows) == len(CHECKS), AGAIN
    for name, check in CHECKS.items():
        assert any(f"| {name} | {check.asks} |" in row for row in rows), f"{name}: {AGAIN}"


def test_the_summary_counts_the_mutants() -> None:
    assert f"of {len(MUTANTS)} mutants are caught" in DOCUMENT.read_text(encoding="utf-8"), AGAIN
