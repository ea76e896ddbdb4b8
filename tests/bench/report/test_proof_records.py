"""docs/parity.json and docs/bugs.json are read strictly, and the Markdown beside them is made from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.report.proof_records import MeasuredError, read_bugs, read_parity, text_of
from bench.settings import DOCS
from tests.bugs.mutants import MUTANTS
from tests.parity.observed import document

PARITY, BUGS = (json.loads((DOCS / f"{name}.json").read_text()) for name in ("parity", "bugs"))


def test_every_precision_has_the_errors_of_its_recipes() -> None:
    precisions = read_parity(DOCS / "parity.json").precisions
    assert list(precisions) == ["float64", "float32", "bfloat16"]
    for recipes in precisions.values():
        proven = {one.recipe: one for one in recipes}
        assert set(proven["full"].errors) == {"logits", "loss", "gradient", "trajectory", "update"}
        assert {"fused_qkv", "sdpa"} <= {name for name, one in proven.items() if one.errors}
        for name in ("kv_cache", "ddp"):
            assert not proven[name].errors
            assert proven[name].proven_in, "these are proven elsewhere"


def test_the_table_of_errors_is_made_from_the_record() -> None:
    again = "docs/parity.md is not that of docs/parity.json: run `python -m tests.parity.observed`"
    assert (DOCS / "parity.md").read_text() == document(read_parity(DOCS / "parity.json")), again


def test_every_planted_bug_is_there() -> None:
    bugs = read_bugs(DOCS / "bugs.json")
    assert [bug.bug for bug in bugs.caught] == [mutant.name for mutant in MUTANTS]
    assert sum(check.mutants for check in bugs.checks) == len(MUTANTS)
    assert bugs.compared_head[:2] == ("#", "bug")
    assert all(len(bug.cells) == len(bugs.compared_head) for bug in bugs.compared)


@pytest.mark.parametrize("name", ["parity", "bugs"])
def test_a_record_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    read: Callable[[Path], Any] = {"parity": read_parity, "bugs": read_bugs}[name]
    record = read(DOCS / f"{name}.json")
    (tmp_path / "again.json").write_text(text_of(record))
    assert read(tmp_path / "again.json") == record


def test_an_error_is_shown_with_its_share_of_the_budget_where_there_is_one() -> None:
    assert str(MeasuredError(4e-7, 0.084)) == "4.0e-07 (0.08)"
    assert str(MeasuredError(2.6e-2, None)) == "2.6e-02"


def changed(record: dict[str, Any], *path: str | int, value: Any) -> str:
    """The text of a record with one value changed."""
    copy = json.loads(json.dumps(record))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(copy)


ROW = ("precisions", "float32", 0)


@pytest.mark.parametrize(
    "text,message",
    [
        ("", r"parity.json: is no JSON \(Expecting value.*\), write it again by python -m pytest tests/parity"),
        ("[]", r"parity.json: is no record of parity, version 1, write it again by python -m pytest"),
        (changed(PARITY, "version", value=2), r"parity.json: is no record of parity, version 1"),
        (changed(PARITY, "precisions", value={}), r"parity.json: has no errors, write it again"),
        (changed(PARITY, *ROW, "errors", "loss", value={}), r"is damaged \(lacks 'error'\), write it again"),
        (changed(PARITY, *ROW, "errors", "30 steps", value={"error": 1.0, "over": 1.0}), r"quantity '30 steps'"),
        (changed(PARITY, *ROW, "errors", "loss", "error", value="little"), r"is damaged \(error is 'little'\)"),
        (changed(PARITY, *ROW, "recipes", value=1.5), r"is damaged \(recipes is 1.5\)"),
        (changed(PARITY, *ROW, "more", value=1), r"is damaged \(has an unknown 'more'\)"),
    ],
)
def test_a_record_of_errors_of_another_form_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_parity(path)


@pytest.mark.parametrize(
    "text,message",
    [
        (changed(BUGS, "kind", value="zoo"), r"bugs.json: is no record of planted bugs, version 1, write it again by"),
        (changed(BUGS, "checks", 0, "mutants", value="many"), r"is damaged \(mutants is 'many'\), write it again by"),
        (changed(BUGS, "caught", 0, value={}), r"is damaged \(lacks 'address'\)"),
        (changed(BUGS, "compared", value=5), r"is damaged \('int' object is not iterable\)"),
        (b"\xff\xfe", r"bugs.json: is no JSON \("),
    ],
)
def test_a_record_of_planted_bugs_of_another_form_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bugs.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_bugs(path)
