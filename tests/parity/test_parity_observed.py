"""What the proofs measured becomes a record: the rows of docs/parity.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.proof_records import MeasuredError, read_parity
from optimized import PLAIN, RUNGS, Recipe, only
from tests.parity import observed
from tests.parity.observed import Row, recipes_of


def test_each_recipe_has_its_errors_and_a_rung_proven_elsewhere_names_the_tests() -> None:
    def row(recipe: Recipe, over: float) -> Row:
        return Row(recipe, "float64", {"logits": MeasuredError(1e-15, over)})

    found = {
        one.recipe: one
        for one in recipes_of([row(PLAIN, 0.1), row(only("sdpa"), 0.2), row(only("sdpa", "compile"), 0.5)])
    }
    assert found["plain"].errors["logits"].over == 0.1
    assert (found["sdpa"].errors["logits"].over, found["sdpa"].worst_over, found["sdpa"].recipes) == (0.2, 0.5, 2)
    assert found["compile"].errors == {}, "it was proven with another rung alone"
    elsewhere = {name: one.proven_in for name, one in found.items() if one.proven_in}
    assert elsewhere == {"kv_cache": "test_parity_cached_generation.py", "ddp": "tests/distributed/"}
    assert found.keys() - {"plain"} <= RUNGS.keys()


def test_the_report_reads_the_record_that_the_proofs_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "build" / "parity.json"
    monkeypatch.setattr(observed, "RECORD", record)
    monkeypatch.setattr(observed, "ROWS", [Row(PLAIN, "float64", {"logits": MeasuredError(1e-15, 0.1)})])
    observed.write_table()
    (plain, *_) = read_parity(record).precisions["float64"]
    assert (plain.recipe, plain.errors["logits"]) == ("plain", MeasuredError(1e-15, 0.1))
    assert "| plain |" in record.with_suffix(".md").read_text()
