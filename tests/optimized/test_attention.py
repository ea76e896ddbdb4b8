"""Every attention gives the numbers of the written-out one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import optimized
from optimized import only, without
from optimized.attention import HALF, ExplicitAttention, FlashAttention, HalvedAttention
from optimized.builder import choose_attention
from reference import GPTConfig

CONFIG = GPTConfig(block_size=2 * HALF + 1, vocab_size=7, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
LENGTHS = [1, 2, HALF - 1, HALF, HALF + 1, HALF + 44, 2 * HALF - 1, 2 * HALF, 2 * HALF + 1]


def qkv(T: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    # as a model has them: views of (B, T, H, D), with scores large enough that the mask and the scale matter
    return [3.0 * torch.randn(2, T, 2, 4, dtype=dtype).transpose(1, 2) for _ in range(3)]


def results(attend: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a sum with distinct factors."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = attend(*leaves)
    weights = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("kind", [FlashAttention, HalvedAttention])
def test_every_attention_equals_the_explicit_one(kind: type[nn.Module], T: int) -> None:
    inputs = qkv(T)
    expected = results(ExplicitAttention(CONFIG), inputs)
    for ours, theirs in zip(results(kind(CONFIG), inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_halves_do_not_compute_the_future_of_half_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, pairs = nn.functional.scaled_dot_product_attention, []

    def watched(q: Tensor, k: Tensor, v: Tensor, **more: object) -> Tensor:
        pairs.append((q.shape[2], k.shape[2]))
        return attention(q, k, v, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    for T in (HALF, HALF + 1, 2 * HALF, 2 * HALF + 1):
        HalvedAttention(CONFIG)(*qkv(T))
    short, halves = [(HALF, HALF)], [(HALF, HALF), (1, HALF + 1), (HALF, HALF), (HALF, 2 * HALF)]
    assert pairs == [*short, *halves, (2 * HALF + 1, 2 * HALF + 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_halves_are_no_less_exact_than_the_whole(dtype: torch.dtype) -> None:
    inputs = qkv(2 * HALF, dtype)
    exact = results(ExplicitAttention(CONFIG), [x.double() for x in inputs])
    whole, halves = (results(kind(CONFIG), inputs) for kind in (FlashAttention, HalvedAttention))
    for ours, theirs, truth in zip(halves, whole, exact, strict=True):
        error, usual = ((y.double() - truth).norm() / truth.norm() for y in (ours, theirs))
        assert error <= 1.5 * usual


@pytest.mark.parametrize("kind", [ExplicitAttention, FlashAttention, HalvedAttention])
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_a_share_of_the_weights_is_dropped_in_training_and_the_rest_scaled_up(kind: type[nn.Module], p: float) -> None:
    T, D = 64, 64
    attend = kind(GPTConfig(block_size=T, vocab_size=7, n_layer=1, n_head=1, n_embd=D, dropout=p))
    q = torch.zeros(50, 1, T, D)  # equal weights for all tokens that it sees
    values = torch.eye(T).expand(50, 1, T, T)  # so that the output is the weights
    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights = attend(q, q, values)[:, 0, -1] * T  # of the last token, 1 each before dropout
    kept = weights != 0.0
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1.0 / (1.0 - p)), rtol=1e-5, atol=0.0)
    assert abs(float(kept.double().mean()) - (1.0 - p)) < 5 * math.sqrt(p * (1.0 - p) / kept.numel())
    torch.testing.assert_close(attend.eval()(q, q, values)[:, 0, -1] * T, torch.ones(50, T), rtol=1e-5, atol=0.0)


def test_halves_keep_the_dropout() -> None:
    attend = HalvedAttention(GPTConfig(block_size=512, vocab_size=7, n_layer=1, n_head=2, n_embd=8, dropout=0.5))
    inputs = qkv(2 * HALF)
    torch.manual_seed(3)
    first, second = attend(*inputs), attend(*inputs)
    assert not torch.equal(first, second)
    attend.eval()
    torch.testing.assert_close(attend(*inputs), HalvedAttention(CONFIG)(*inputs), rtol=0, atol=0)


def test_a_cpu_gets_halves_and_other_devices_the_whole() -> None:
    def attention(recipe: optimized.Recipe, device: str) -> type[nn.Module]:
        return choose_attention(recipe, torch.device(device))

    assert attention(only("sdpa"), "cpu") is HalvedAttention
    assert attention(without("sdpa"), "cpu") is ExplicitAttention
    assert attention(only("sdpa"), "cuda") is FlashAttention
    assert type(optimized.build(CONFIG, only("sdpa")).h[0].attn.attention) is HalvedAttention
