"""One row times a matrix: the same numbers as torch's own product, for every shape and precision."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

import optimized
from optimized import FULL, gemv, only, without
from optimized.gemv import WORTH_COMPILING, Compiled, RowLinear, RowProduct, in_parallel
from optimized.generation import CachedGPT
from reference import GPTConfig
from tests.optimized.models import sharp_model

SHAPES = [(1, 1), (7, 3), (64, 5), (50, 48), (128, 33), (257, 16), (50304, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bands_side_by_side_give_the_product(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, x = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(in_parallel(x, weight), weight @ x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("leading", [(1, 1), (1,), (), (2, 3), (3, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_a_linear_layer_for_one_row_and_for_more(leading: tuple[int, ...], bias: bool) -> None:
    linear = torch.nn.Linear(12, 20, bias=bias, dtype=torch.float64)
    asked = []

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        asked.append(x.shape)
        return in_parallel(x, weight)

    layer = RowLinear(linear.weight, linear.bias, product)
    x = torch.randn(*leading, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), linear(x).detach(), rtol=1e-12, atol=1e-12)
    assert asked == ([(12,)] if x.numel() == 12 else []), "only a single row is a product of its own"


def test_the_product_gets_its_row_in_the_precision_of_the_weights() -> None:
    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert x.dtype == weight.dtype == torch.bfloat16
        return weight @ x

    layer = RowLinear(torch.ones(3, 2).bfloat16(), None, product)
    assert torch.equal(layer(torch.ones(1, 1, 2)), torch.full((1, 1, 3), 2.0).bfloat16())


@pytest.mark.slow
def test_compiled_code_in_bfloat16_rounds_no_more_than_the_library_and_serves_all_shapes() -> None:
    product = Compiled()
    torch._dynamo.reset()
    counters["stats"].clear()
    shapes = [(WORTH_COMPILING // K + N, K) for K in (512, 768, 3072) for N in (0, 1, 2000)]
    assert len(shapes) > torch._dynamo.config.recompile_limit, "as many would end in code that is not compiled"
    for shape in shapes:
        weight = torch.nn.Parameter(torch.randn(shape).bfloat16(), requires_grad=False)  # as RowLinear has it
        x = torch.randn(shape[1]).bfloat16()
        exact = weight.double() @ x.double()
        ours, theirs = ((y.double() - exact).norm() / exact.norm() for y in (product(x, weight), F.linear(x, weight)))
        assert ours <= 1.2 * theirs
        assert product(x, weight).dtype == torch.bfloat16
    assert counters["stats"]["unique_graphs"] == 1


def test_a_product_is_cut_into_as_many_bands_as_divide_it_up_to_64(monkeypatch: pytest.MonkeyPatch) -> None:
    bmm, bands = torch.bmm, []

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        bands.append(len(a))
        return bmm(a, b)

    monkeypatch.setattr(torch, "bmm", watched)
    for N in (128, 48, 50304, 7):
        in_parallel(torch.ones(3), torch.ones(N, 3))
    assert bands == [64, 16, 64, 1]


def test_what_is_compiled_is_the_product_for_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def as_python(function: RowProduct, **settings: object) -> RowProduct:
        asked.append(settings)
        return function

    monkeypatch.setattr(torch, "compile", as_python)
    monkeypatch.setattr(gemv, "vector_width", lambda: {"cpp.simdlen": 256})
    product = Compiled()
    assert asked == [], "torch's compiler takes seconds to import"
    weight, x = torch.randn(WORTH_COMPILING // 512, 512).bfloat16(), torch.randn(512).bfloat16()
    exact = (weight.double() @ x.double()).bfloat16()
    out = product.multiply_and_sum(x, weight)
    assert asked == [{"dynamic": True, "options": {"cpp.simdlen": 256}}]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact, rtol=2**-7, atol=1e-2)
    given: list[torch.Tensor] = []
    product.multiply_and_sum = lambda *both: given.extend(both) or x  # type: ignore[func-returns-value]
    assert product(x, weight) is x, "a matrix that is just large enough is worth compiling"
    assert given[0] is x
    assert torch.equal(given[1], weight)


def test_small_matrices_are_not_worth_a_compiler() -> None:
    product = Compiled()
    weight, x = torch.randn(30, 20).bfloat16(), torch.randn(20).bfloat16()
    product.multiply_and_sum = lambda x, weight: pytest.fail("compiled")
    assert torch.equal(product(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("recipe", [only("kv_cache"), without("bf16", "compile")], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
def test_generating_one_text_uses_the_product_of_one_row_and_several_texts_do_not(
    recipe: optimized.Recipe, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = CachedGPT(sharp_model(recipe).eval(), rows)
    layers = [layer for layer in cached.model.modules() if isinstance(layer, RowLinear)]
    calls: list[torch.Size] = []

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append(weight.shape)
        return in_parallel(x, weight)

    for layer in layers:
        monkeypatch.setattr(layer, "product", product)
    cached.extend(torch.zeros(rows, 3, dtype=torch.int64), last=3)
    assert not calls
    cached.extend(torch.zeros(rows, 1, dtype=torch.int64))
    assert len(calls) == (len(layers) if rows == 1 else 0)


def test_full_compiles_its_row_products_only_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=1, n_embd=8)
    assert isinstance(optimized.build(config, FULL).precision.copies.product, Compiled)
    assert not isinstance(optimized.build(config, without("compile")).precision.copies.product, Compiled)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        assert not isinstance(optimized.build(config, FULL).precision.copies.product, Compiled)
