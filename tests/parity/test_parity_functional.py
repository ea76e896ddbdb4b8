"""The functions by hand equal torch's: values and gradients in float64, awkward shapes, extreme inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from reference.functional import (
    causal_attention,
    causal_attention_weights,
    cross_entropy,
    gelu,
    layer_norm,
    softmax,
)

ROWS = [(1,), (2,), (7, 1), (3, 5), (2, 3, 4), (1, 1, 1, 1), (5, 1023), (0, 4)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def assert_equal_with_gradients(
    ours: Callable[..., Tensor], library: Callable[..., Tensor], *inputs: Tensor, bound: float = 1e-13
) -> None:
    """Values, and the gradients of a random weighting of them, within `bound` of their natural size.

    That is the largest entry, or for a gradient what a slope of (output / input) would give if that is more: a
    saturated softmax has a gradient of nothing but rounding.
    """
    results = []
    for function in (ours, library):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        weights = randn(*out.shape, seed=9)
        gradients = torch.autograd.grad((out * weights).sum(), leaves)
        results.append([out.detach(), *gradients])
    names = ["value", *(f"gradient {i}" for i in range(len(inputs)))]
    if not results[0][0].numel():
        return
    natural = [0.0, *(float(results[1][0].abs().max() / x.abs().max()) for x in inputs)]
    for name, slope, mine, expected in zip(names, natural, *results, strict=True):
        assert mine.shape == expected.shape, name
        assert mine.isfinite().all(), f"{name} is not finite"
        error = float((mine - expected).abs().max())
        allowed = bound * max(float(expected.abs().max()), slope)
        assert error <= allowed, f"{name}: off by {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_softmax_equals_torch(shape: tuple[int, ...], size: float) -> None:
    assert_equal_with_gradients(softmax, lambda x: F.softmax(x, dim=-1), size * randn(*shape))


@pytest.mark.parametrize("shift", [1e4, -1e4, 0.0])
def test_softmax_stays_finite_at_logits_of_ten_thousand(shift: float) -> None:
    x = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4 - 1]], dtype=torch.float64) + shift
    assert_equal_with_gradients(softmax, lambda x: F.softmax(x, dim=-1), x)
    assert torch.allclose(softmax(x.float()).sum(-1), torch.ones(3))


def test_softmax_gives_exactly_zero_to_minus_infinity() -> None:
    x = torch.tensor([0.5, -math.inf, 2.0], dtype=torch.float64)
    assert softmax(x)[1] == 0.0
    assert torch.equal(softmax(x)[[0, 2]], softmax(x[[0, 2]]))


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (2, 3, 4), (5, 1023), (0, 4)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_equals_torch(shape: tuple[int, ...], size: float, offset: float) -> None:
    C = shape[-1]
    x, weight, bias = size * randn(*shape) + offset, randn(C, seed=1), randn(C, seed=2)
    # an offset of 100 on a spread of 1e-4 leaves 16 - 6 digits of the spread, less where gradients cancel
    bound = 1e-12 if offset == 0.0 else 1e-7 if size < 1.0 else 1e-11
    assert_equal_with_gradients(layer_norm, lambda x, w, b: F.layer_norm(x, (C,), w, b), x, weight, bias, bound=bound)


def test_layer_norm_without_bias_equals_torch() -> None:
    assert_equal_with_gradients(
        lambda x, w: layer_norm(x, w, None),
        lambda x, w: F.layer_norm(x, (6,), w),
        randn(4, 6),
        randn(6, seed=1),
    )


def test_layer_norm_of_a_constant_row_is_its_bias() -> None:
    bias = randn(6)
    assert torch.equal(layer_norm(torch.full((2, 6), 3.5, dtype=torch.float64), randn(6), bias)[0], bias)


def test_layer_norm_counts_eps_inside_the_root_and_divides_by_the_width() -> None:
    """Only where the variance is about as small as eps do these show."""
    x = torch.tensor([[0.0, 2e-3, 4e-3, 6e-3]], dtype=torch.float64)
    variance = (9e-6 + 1e-6 + 1e-6 + 9e-6) / 4
    expected = -3e-3 / math.sqrt(variance + 1e-5)
    one = torch.ones(4, dtype=torch.float64)
    assert float(layer_norm(x, one, 0 * one)[0, 0]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("size", [1e-8, 1.0, 100.0])
def test_gelu_equals_torch_in_its_tanh_form(shape: tuple[int, ...], size: float) -> None:
    assert_equal_with_gradients(gelu, lambda x: F.gelu(x, approximate="tanh"), size * randn(*shape))


def test_gelu_is_not_the_erf_form() -> None:
    x = torch.linspace(-4, 4, 1001, dtype=torch.float64)
    difference = float((gelu(x) - F.gelu(x)).abs().max())
    assert 4.0e-4 < difference < 5.0e-4, f"largest difference {difference:.2e}"


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (2, 3, 4), (5, 1023), (2, 1)])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_cross_entropy_equals_torch(shape: tuple[int, ...], size: float) -> None:
    logits = size * randn(*shape)
    targets = torch.randint(shape[-1], shape[:-1], generator=torch.Generator().manual_seed(0))
    assert_equal_with_gradients(
        lambda x: cross_entropy(x, targets),
        lambda x: F.cross_entropy(x.flatten(0, -2), targets.flatten()),
        logits,
    )


@given(st.lists(st.integers(min_value=-1, max_value=6), min_size=1, max_size=12).filter(lambda t: max(t) >= 0))
def test_cross_entropy_ignores_targets_of_minus_one_as_torch_does(chosen: list[int]) -> None:
    targets = torch.tensor(chosen)
    assert_equal_with_gradients(
        lambda x: cross_entropy(x, targets),
        lambda x: F.cross_entropy(x, targets, ignore_index=-1),
        randn(len(chosen), 7),
    )


def test_a_vocabulary_of_one_token_costs_nothing() -> None:
    logits = torch.tensor([[3.0], [-2.0], [0.5]])
    assert cross_entropy(logits, torch.tensor([0, -1, 0])) == 0.0


def test_cross_entropy_by_hand() -> None:
    """Two counted targets: -log(1/2) and -log(3/4); the third is ignored."""
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [5.0, -5.0]], dtype=torch.float64)
    loss = cross_entropy(logits, torch.tensor([0, 1, -1]))
    assert float(loss) == pytest.approx((math.log(2.0) - math.log(0.75)) / 2, rel=1e-15)


def test_cross_entropy_of_nothing_is_nan_as_in_torch() -> None:
    targets = torch.tensor([-1, -1])
    assert cross_entropy(randn(2, 3), targets).isnan()
    assert F.cross_entropy(randn(2, 3), targets, ignore_index=-1).isnan()


def test_cross_entropy_stays_finite_at_logits_of_ten_thousand_in_float32() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert float(loss.detach()) == 2e4
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 64, 5), (2, 3, 63, 8), (1, 2, 65, 1)])
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_causal_attention_equals_torch(shape: tuple[int, ...], size: float) -> None:
    q, k, v = size * randn(*shape, seed=1), size * randn(*shape, seed=2), randn(*shape, seed=3)
    assert_equal_with_gradients(
        causal_attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        q,
        k,
        v,
        bound=1e-12,
    )


def test_attention_gives_the_future_exactly_zero_however_large_the_scores() -> None:
    q, k = 1e3 * randn(2, 20, 4, seed=1), 1e3 * randn(2, 20, 4, seed=2)
    weights = causal_attention_weights(q, k)
    assert weights.triu(diagonal=1).count_nonzero() == 0
    assert torch.allclose(weights.sum(-1), torch.ones(2, 20, dtype=torch.float64), atol=1e-14)
    assert weights[:, 0, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("function", [softmax, gelu], ids=["softmax", "gelu"])
def test_second_derivatives_pass_gradcheck(function: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradgradcheck(function, (randn(3, 4).requires_grad_(),))
