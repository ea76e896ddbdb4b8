"""Fused LayerNorm and GELU give the reference's values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimized.norm_mlp import FusedLayerNorm, FusedMLP
from reference import GPTConfig
from reference.gpt import MLP, LayerNorm
from tests.optimized.models import SMALL, gradients_of, relative

KINDS = [(FusedLayerNorm, LayerNorm), (FusedMLP, MLP)]
NO_BIAS = GPTConfig(block_size=24, vocab_size=101, n_layer=1, n_head=3, n_embd=24, bias=False)


def both(fused: type[nn.Module], written_out: type[nn.Module], config: GPTConfig) -> tuple[nn.Module, nn.Module]:
    """A fused module and the reference's, in float64, with the same random weights."""
    torch.manual_seed(0)
    own, theirs = fused(config).double(), written_out(config).double()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    theirs.load_state_dict(own.state_dict())
    return own, theirs


@pytest.mark.parametrize("config", [SMALL, NO_BIAS], ids=["bias", "no bias"])
@pytest.mark.parametrize("fused, written_out", KINDS)
def test_values_and_gradients_are_the_references(
    fused: type[nn.Module], written_out: type[nn.Module], config: GPTConfig
) -> None:
    x = 3.0 * torch.randn((2, 5, config.n_embd), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1.0
    found: list[dict[str, Tensor]] = []
    for module in both(fused, written_out, config):
        y = module(x)
        found.append({"output": y, **gradients_of((y * torch.linspace(-1.0, 1.0, config.n_embd)).sum(), module)})
    own, theirs = found
    assert own.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert relative(own[name], expected) < 1e-13, name


def test_a_constant_row_is_normalised_with_gpt2s_eps() -> None:
    own, theirs = both(FusedLayerNorm, LayerNorm, SMALL)
    x = torch.full((1, SMALL.n_embd), 2.0, dtype=torch.float64)
    x[0, 0] += 1e-3  # a variance as small as eps: another eps shows
    assert relative(own(x) - own.bias, theirs(x) - theirs.bias) < 1e-9
