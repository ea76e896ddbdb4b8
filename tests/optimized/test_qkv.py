"""Loading names every missing, unknown or misshapen tensor of an attention, fused or not."""

from __future__ import annotations

import pytest
import torch

from optimized import PLAIN, Recipe, only
from tests.optimized.models import SMALL, sharp_model

C = SMALL.n_embd


@pytest.mark.parametrize("recipe", [PLAIN, only("fused_qkv")], ids=str)
@pytest.mark.parametrize(
    "stray",
    [
        "h.0.attn.q_proj.scale",
        "h.1.attn.v_proj.weight_g",
        "h.0.attn.qkv.c_attn.weight",  # the inside of a fused one
        "h.1.attn.qkv.q_proj.bias",  # and of one that is not
        "h.0.attn.qkv.other",
    ],
)
def test_a_tensor_that_no_projection_has_is_named(recipe: Recipe, stray: str) -> None:
    model = sharp_model(recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**sharp_model(recipe, seed=1).state_dict(), stray: torch.zeros(3 * C, C, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match=rf'Unexpected key\(s\) in state_dict: "{stray}"\.'):
        model.load_state_dict(state)
    assert model.load_state_dict(before, strict=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("recipe", [PLAIN, only("fused_qkv")], ids=str)
def test_all_wrong_tensors_are_named_at_once(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    strays = ["h.0.attn.q_proj.scale", "h.1.attn.k_proj.scale", "h.1.mlp.scale"]
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict({**model.state_dict(), **dict.fromkeys(strays, torch.zeros(1))})
    assert all(f'"{stray}"' in str(error.value) for stray in strays)
