"""A map of attention has the weights of every implementation of attention, and none looks ahead.

The notebook's picture forgot the mask wherever the library's fused attention was there to compute with.
"""

import pytest
import torch

from optimized.attention import ExplicitAttention, FlashAttention, HalvedAttention
from reference import GPT, GPTConfig
from reference.plots.attention_maps import attention_maps


@pytest.mark.parametrize("kind", [ExplicitAttention, FlashAttention, HalvedAttention])
@pytest.mark.parametrize("T", [1, 9, 300])  # in 300 the last one computes its two halves apart
def test_the_map_of_a_layer_is_what_each_attention_takes_from_each_place(kind, T):
    config = GPTConfig(block_size=300, vocab_size=11, n_layer=2, n_head=2, n_embd=8)
    model = GPT(config).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    ids = torch.randint(11, (1, T), generator=generator)
    maps = attention_maps(model, ids)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    assert bool((maps[..., future] == 0.0).all()), "the map looks ahead"
    x = model.wte(ids) + model.wpe(torch.arange(T))
    attend = kind(config).eval()
    for layer, block in enumerate(model.h):
        normal = block.ln_1(x)
        q, k = (block.attn.heads(projection(normal)) for projection in (block.attn.q_proj, block.attn.k_proj))
        places = torch.eye(T, dtype=torch.float64).expand(1, config.n_head, T, T)
        taken = attend(q, k, places).detach()[0]  # of values that are 1 at one place alone: (H, T, T)
        assert bool((taken[..., future] == 0.0).all()), f"{kind.__name__} looks ahead in layer {layer}"
        torch.testing.assert_close(taken, maps[layer], rtol=1e-10, atol=1e-12)
        x = block(x)
