"""Bugs planted in three differently written right models are detected, placed and named; see causes_table.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.candidate.examine import examine
from tests.bench.candidate.causes_table import (
    BEGIN,
    CONFIG,
    DOCUMENT,
    PAIRS,
    RECORD,
    SEEDS,
    TARGETS,
    Kept,
    measured,
    right_is_right,
    right_models,
    right_place,
    share,
    table,
)
from tests.bench.candidate.planted_models import FILES, PLANTED, alone, in_pairs, text_with
from tests.bugs.mutants import MUTANTS

AGAIN = "run python -m tests.bench.candidate.causes_table"
# three bugs, each in another file; all others are measured by the command
NAMES = ("erf GELU", "the residual adds to the normalised stream", "ignored targets count as token 0")
QUICK = {
    next(n for n, (file, bugs) in enumerate(alone()) if (file, bugs[0].name) == pair)
    for pair in zip(FILES, NAMES, strict=True)
}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, id=f"{file}: {bugs[0].name}", marks=[] if n in QUICK else [pytest.mark.long])
        for n, (file, bugs) in enumerate(alone())
        if n % 3 == 0 or n in QUICK
    ],
)
def test_a_planted_bug_is_detected_placed_and_named_and_nothing_else_is(number: int) -> None:
    row = measured(*list(alone())[number])
    assert row.detected
    assert row.place, row.first
    assert row.cause, row.said


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.long) for n in range(12)])
def test_of_a_pair_of_bugs_no_false_cause_is_named(number: int) -> None:
    row = measured(*list(in_pairs(PAIRS))[number])
    assert row.detected
    assert not row.false, row


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == next(iter(FILES)) else [pytest.mark.long]) for n in right_models()]
)
def test_a_right_model_raises_no_alarm(name: str) -> None:
    assert right_is_right(name, seed=3)


def test_results_are_kept_as_they_come_and_only_those_of_the_same_code_are_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(tmp_path / "build" / "causes").keep("right", "reference, seed 0", True)
    beside = Kept(tmp_path / "build" / "causes")
    Kept(tmp_path / "build" / "causes").keep("right", "reference, seed 1", False)
    beside.keep("pairs", "fused: two", {"place": True})
    found = Kept(tmp_path / "build" / "causes").results
    right = {"reference, seed 0": True, "reference, seed 1": False}
    assert found == {"alone": {}, "pairs": {"fused: two": {"place": True}}, "right": right}
    assert Kept(tmp_path / "build" / "causes", again=True).results["right"] == {}
    monkeypatch.setattr("tests.bench.candidate.causes_table.hash_of_code", lambda: "other code")
    assert Kept(tmp_path / "build" / "causes").results["right"] == {}


def test_beside_a_bug_that_shows_in_all_probes_one_that_shows_in_one_is_not_the_first() -> None:
    mask, bias = (
        next(bug for bug in PLANTED if bug.name.startswith(n)) for n in ("the mask is -1e4", "the bias of c_pr")
    )
    seen = SimpleNamespace(where=SimpleNamespace(forward=SimpleNamespace(name="h.0.projection", hidden=())))
    assert right_place(seen, (mask, bias))  # type: ignore[arg-type]
    assert not right_place(seen, (mask,))  # type: ignore[arg-type]


def test_the_documented_table_is_that_of_the_record_and_reaches_its_targets() -> None:
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    for kind, cells in (("alone", alone()), ("pairs", in_pairs(PAIRS))):
        planted = [(file, [bug.name for bug in bugs]) for file, bugs in cells]
        assert [(row["file"], row["bugs"]) for row in record[kind]] == planted, AGAIN
    assert (record["right"]["models"], record["right"]["seeds"]) == (list(right_models()), SEEDS), AGAIN
    assert record["right"]["alarms"] == []
    for kind, targets in TARGETS.items():
        for what, target in zip(("detected", "place", "cause"), targets, strict=True):
            assert share(record[kind], what) >= target, (kind, what)
        assert not [row for row in record[kind] if row["false"]]
    assert "\n".join(table(record)).strip() in DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2], AGAIN


def test_every_bug_inside_a_model_is_planted_or_named_as_left_out() -> None:
    left_out = {48, 49, 50, 51, 85}
    inside = {mutant.row for mutant in MUTANTS if mutant.in_model}
    assert {bug.row for bug in PLANTED} == inside - left_out


def test_every_change_of_text_fits_its_file() -> None:
    texts = [text_with(file, bugs) for file, bugs in (*alone(), *in_pairs(PAIRS))]
    assert len(set(texts)) == len(texts)
    for text in texts:
        compile(text, "planted", "exec")


def test_a_head_that_is_not_tied_is_a_note_where_it_moves_no_number() -> None:
    import torch
    from torch import nn

    from bench.candidate.layouts import layout_of
    from tests.bench.candidate.written import Written

    class Untied(Written):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.lm_head.weight = nn.Parameter(torch.zeros_like(self.lm_head.weight))

    seen = examine(Untied, layout_of("nanogpt"), config=CONFIG, steps=0)
    assert seen.same
    assert seen.causes == []
    assert "wte.weight exists as two parameters" in " ".join(seen.notes)
