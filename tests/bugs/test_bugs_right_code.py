"""Right code passes every check with any seed: a check that cries wolf proves nothing."""

from __future__ import annotations

import pytest

from optimized import FULL
from tests.bugs.checks import CHECKS
from tests.bugs.mutants import MUTANTS
from tests.bugs.sides import REFERENCE, Side

SEEDS, FEW, TWO = range(20), range(4), range(2)
SIDES = dict.fromkeys((mutant.check.name, mutant.side) for mutant in MUTANTS)
OF_RECIPES = {"accumulation", "two ranks", "cache", "text after a step", "padded vocabulary", "rounding"}


def failures(name: str, side: Side, seeds: range = SEEDS) -> dict[int, str]:
    """By seed: what a check found wrong."""
    return {seed: str(found) for seed in seeds if (found := CHECKS[name](side, seed)).fails}


@pytest.mark.parametrize(("name", "side"), SIDES, ids=str)
def test_code_without_a_bug_passes(name: str, side: Side) -> None:
    assert not failures(name, side, TWO)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), SIDES, ids=str)
def test_code_without_a_bug_passes_over_20_seeds(name: str, side: Side) -> None:
    assert not failures(name, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_so_does_the_full_recipe_and_the_reference_where_it_has_such_a_thing(name: str) -> None:
    assert not failures(name, Side(FULL.without("bf16", "compile", "ddp")), FEW)
    assert name in OF_RECIPES or not failures(name, REFERENCE, FEW)
