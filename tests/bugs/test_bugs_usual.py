"""What the usual ways would have missed: the claims that the table rests on."""

from __future__ import annotations

import pytest

from tests.bugs.mutants import MUTANTS
from tests.bugs.sides import Side
from tests.bugs.usual import WAYS, WEIGHTS, passes, seen

IN_MODEL = [mutant for mutant in MUTANTS if mutant.in_model]
SIDES = list(dict.fromkeys(mutant.side for mutant in IN_MODEL))


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_right_code_passes_in_every_usual_way(side: Side) -> None:
    assert all(passes(side, kind, way) for kind in WEIGHTS for way in WAYS)


@pytest.mark.parametrize(
    "name",
    [
        "the LayerNorms of a block are swapped",
        "the bias of c_proj is dropped",
        "the biases of q and v are swapped while loading",
    ],
)
def test_default_weights_hide_what_sharp_weights_show_however_exact_the_comparison(name: str) -> None:
    (mutant,) = (mutant for mutant in IN_MODEL if mutant.name == name)
    found = seen(mutant)
    assert not any(found["default weights", way] for way in WAYS)
    assert found["sharp weights", "float64"]


def test_the_erf_gelu_passes_a_loose_comparison_in_float32_and_one_in_bfloat16() -> None:
    (mutant,) = (m for m in IN_MODEL if m.name == "erf GELU under weights trained with the tanh form")
    found = seen(mutant)
    assert not found["default weights", "1e-4"]
    assert not any(found[kind, way] for kind in WEIGHTS for way in ("1e-2", "bfloat16"))
    assert all(found[kind, "float64"] for kind in WEIGHTS)


def test_a_comparison_of_outputs_does_not_show_a_wrong_gradient() -> None:
    for mutant in IN_MODEL:
        if mutant.name in ("keys have no gradient", "the gradient of the tied table is doubled at the head"):
            assert not any(seen(mutant).values()), mutant.name
