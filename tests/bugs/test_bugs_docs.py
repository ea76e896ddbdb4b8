"""docs/bugs.json and docs/bugs.md have every planted bug; numbers differ by machine and are not compared."""

from __future__ import annotations

from bench.report.proof_records import read_bugs
from tests.bugs.checks import CHECKS
from tests.bugs.measure import DOCUMENT, RECORD, address, document
from tests.bugs.mutants import MUTANTS

AGAIN = "out of date: run `python -m tests.bugs.measure`"
BUGS = read_bugs(RECORD)


def test_every_mutant_has_its_row_in_order_with_source_side_trigger_and_check() -> None:
    expected = [
        (m.row, m.name, m.source, address(m.source), str(m.side), m.trigger, m.check.name, m.check.letter)
        for m in MUTANTS
    ]
    found = [(b.row, b.bug, b.source, b.address, b.side, b.needs, b.check, b.kind) for b in BUGS.caught]
    assert found == expected, AGAIN


def test_every_mutant_inside_a_model_is_in_the_table_of_the_usual_ways() -> None:
    expected = [(mutant.row, mutant.name) for mutant in MUTANTS if mutant.in_model]
    assert [(bug.row, bug.bug) for bug in BUGS.compared] == expected, AGAIN


def test_every_check_has_its_row_with_its_question_and_the_number_of_its_mutants() -> None:
    expected = {
        name: (check.letter, check.asks, sum(mutant.check is check for mutant in MUTANTS))
        for name, check in CHECKS.items()
    }
    assert {one.check: (one.kind, one.asks, one.mutants) for one in BUGS.checks} == expected, AGAIN


def test_the_summary_counts_the_mutants() -> None:
    assert f"of {len(MUTANTS)} mutants are caught" in BUGS.summary, AGAIN


def test_the_document_is_made_from_the_record() -> None:
    again = "docs/bugs.md is not that of docs/bugs.json: run `python -m tests.bugs.measure --from-json`"
    assert DOCUMENT.read_text(encoding="utf-8") == document(BUGS), again
