"""Every mutant is caught by its check, on a small model, and leaves nothing behind."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.bugs import oracle
from tests.bugs.checks import CHECKS, Check, Outcome
from tests.bugs.mutant import AROUND, IN_MODEL, Constant, Edit, Mutant, edited, function_of, owner_of
from tests.bugs.mutants import MUTANTS, OURS
from tests.bugs.sides import REFERENCE

SEEDS = range(1, 6)
BAR = 4.0  # budgets: the nearest, over 20 seeds, is 6 and measures rounding; the next is 40

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.row}, {mutant.name}")


def state_of(mutant: Mutant) -> list[Any]:
    """What its changes would change: code and constants."""
    found = []
    for change in mutant.changes:
        owner, name = owner_of(change.target)
        constant = isinstance(change, Constant)
        found.append(getattr(owner, name) if constant else function_of(change.target).__code__)
    return found


without_a_bug = cache(Check.__call__)


@every_mutant
def test_the_mutant_is_caught_by_its_check(mutant: Mutant) -> None:
    right = without_a_bug(mutant.check, mutant.side)
    assert not right.fails, f"without the bug, {right}"
    with mutant.injected():
        wrong = mutant.check(mutant.side)
    assert wrong.fails, f"the check {mutant.check.name!r} did not notice: {wrong}"
    assert wrong.over >= BAR, f"only just noticed: {wrong}"


@pytest.mark.slow
@every_mutant
def test_the_mutant_is_caught_with_other_seeds_too(mutant: Mutant) -> None:
    with mutant.injected():
        missed = {seed: found for seed in SEEDS if not (found := mutant.check(mutant.side, seed)).over >= BAR}
    assert not missed


@every_mutant
def test_the_mutant_changes_something_and_leaves_nothing_behind(mutant: Mutant) -> None:
    before = state_of(mutant)
    with mutant.injected():
        inside = state_of(mutant)
    after = state_of(mutant)
    assert all(a is b for a, b in zip(after, before, strict=True))
    for change, old, new in zip(mutant.changes, before, inside, strict=True):
        if isinstance(change, Constant):
            assert new != old, change.target
        else:
            kinds = ("co_code", "co_consts", "co_names", "co_varnames")
            assert any(getattr(old, kind) != getattr(new, kind) for kind in kinds), change.target


def test_it_leaves_nothing_behind_after_an_exception_either() -> None:
    mutant = MUTANTS[0]
    before = state_of(mutant)
    with pytest.raises(KeyError), mutant.injected():
        raise KeyError
    assert all(a is b for a, b in zip(state_of(mutant), before, strict=True))


def test_every_row_of_the_list_has_a_mutant_and_there_are_ten_and_more_of_our_own() -> None:
    rows = {mutant.row for mutant in MUTANTS}
    assert rows == set(range(1, max(rows) + 1)), "a number is missing"
    assert {mutant.row for mutant in MUTANTS if mutant.source != OURS} == set(range(1, 44))
    assert len([mutant for mutant in MUTANTS if mutant.source == OURS]) >= 10
    assert sum(mutant.side.recipe is not None for mutant in MUTANTS if mutant.source == OURS) >= 10


def test_every_row_says_what_is_wrong_once_and_in_full() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    for mutant in MUTANTS:
        assert mutant.part in (*IN_MODEL, *AROUND), mutant.name
        assert CHECKS[mutant.check.name] is mutant.check
        assert mutant.changes, mutant.name
        for text in (mutant.name, mutant.source, mutant.trigger):
            assert text, mutant.name
            assert "|" not in text, f"{text!r} would end a cell of the table"


def test_every_check_has_a_mutant_that_it_catches() -> None:
    assert {mutant.check.name for mutant in MUTANTS} == set(CHECKS)


def test_the_oracle_uses_nothing_that_a_mutant_can_change() -> None:
    tree = ast.parse(Path(inspect.getfile(oracle)).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert {str(name).split(".")[0] for name in imported} == {"__future__", "collections", "torch"}


def test_words_that_are_not_there_just_once_are_an_error() -> None:
    gone = Edit("reference.functional:gelu", "tanh(x", "sinh(x")
    with pytest.raises(LookupError, match=r"gelu has 'tanh\(x' 0 times: the row of tests/bugs is out of date"):
        edited(function_of(gone.target), [(gone.old, gone.new)])


def test_a_mistake_in_a_mutant_does_not_count_as_caught() -> None:
    broken = Mutant(
        0, "", "", "model", "", REFERENCE, CHECKS["logits"], (Edit("reference.functional:gelu", "tanh()", "tahn()"),)
    )
    with broken.injected(), pytest.raises(AttributeError, match="tahn"):
        broken.check(REFERENCE)


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 1e-11])
def test_an_outcome_beyond_its_budget_fails_and_what_is_not_a_number_is_beyond(error: float) -> None:
    assert Outcome(error, 1e-12, "logits").fails
    assert Outcome(error, 0.0, "tokens").fails
    assert not Outcome(0.0, 0.0, "tokens").fails
    assert not Outcome(1e-12, 1e-12, "logits").fails
