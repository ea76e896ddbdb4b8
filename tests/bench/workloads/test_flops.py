"""The FLOP formulas equal torch's count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import optimized
from bench.numerics.inputs import random_batch
from bench.workloads.flops import (
    forward_flops_per_token,
    generated_flops_per_token,
    prefill_flops,
    training_flops_per_token,
)
from optimized import PLAIN, only
from optimized.generation import CachedGPT
from reference import GPT, SIZES, GPTConfig

SHAPES = [
    GPTConfig(block_size=32, vocab_size=101, n_layer=3, n_head=4, n_embd=24),
    GPTConfig(block_size=16, vocab_size=7, n_layer=1, n_head=1, n_embd=8, bias=False),
    GPTConfig(block_size=48, vocab_size=300, n_layer=2, n_head=5, n_embd=40),
]


def counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"L{c.n_layer}-C{c.n_embd}-V{c.vocab_size}")
@pytest.mark.parametrize("B,T", [(1, 1), (2, 7), (3, 16)])
@pytest.mark.parametrize("build", [GPT, lambda config: optimized.build(config, PLAIN)], ids=["reference", "plain"])
def test_forward_and_training_are_what_torch_counts(build: Any, config: GPTConfig, B: int, T: int) -> None:
    model: Any = build(config)
    ids, targets = random_batch(config, B, T)
    assert counted(lambda: model(ids)) == B * T * forward_flops_per_token(config, T)
    assert counted(lambda: model.loss(ids, targets).backward()) == B * T * training_flops_per_token(config, T)


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"L{c.n_layer}-C{c.n_embd}-V{c.vocab_size}")
def test_prompt_and_generated_tokens_are_what_torch_counts_with_a_cache(
    config: GPTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch counts products, but neither its fused attention on a CPU nor our matrix-vector products
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", explicit)
    model: Any = optimized.build(config, only("kv_cache")).eval()
    model.precision.copies.product = None
    prompt, new = 5, 4
    ids = random_batch(config, 1, prompt + new - 1)[0]
    cached = CachedGPT(model, 1, prompt + new - 1)
    assert counted(lambda: cached.extend(ids[:, :prompt], last=1)) == prefill_flops(config, prompt)
    generated = [counted(lambda n=n: cached.extend(ids[:, n : n + 1])) for n in range(prompt, prompt + new - 1)]  # type: ignore[misc]
    assert sum(generated) / len(generated) == generated_flops_per_token(config, prompt, new)


def explicit(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v  # without the mask: only the products count


def test_gpt2_at_1024_tokens_is_the_published_855_million() -> None:
    # Karpathy's transformer_sizing notebook and nanoGPT's estimate_mfu use 6 N + 12 L C T, with N = 123.6 million
    assert training_flops_per_token(SIZES["gpt2"], 1024) == pytest.approx(855e6, rel=1e-3)


def test_the_flops_left_out_are_a_small_share() -> None:
    """Norms, GELU and residuals: some operations per number, on C or 4 C numbers per token and layer."""
    c, T = SIZES["gpt2"], 1024
    left_out = c.n_layer * (2 * 8 * c.n_embd + 15 * 4 * c.n_embd + 2 * c.n_embd) + 8 * c.n_embd
    assert left_out < 0.01 * forward_flops_per_token(c, T)
