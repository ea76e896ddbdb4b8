"""Chunked head and cross-entropy: the plain loss and its gradients, without all logits at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.numerics.budgets import BF16_FACTORS, BF16_ULP
from bench.numerics.inputs import random_batch
from bench.timing.peak_memory import PeakMeasurement
from optimized import Recipe, build, loss, only
from optimized.embedding import ExactTable, PaddedTable
from optimized.loss import chunked_loss, fused_loss, plain_loss
from reference import GPTConfig
from tests.optimized.models import SMALL, gradients_of, relative, sharp_model, sharp_reference

Case = tuple[Tensor, ExactTable, Tensor]


def a_case(
    N: int = 12,
    V: int = 29,
    C: int = 8,
    *,
    dtype: torch.dtype = torch.float64,
    counted: Any = None,
    padded: bool = False,
    size: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
) -> Case:
    """x (1, N, C), a table, and targets (1, N): -1 where `counted` (N bools) is False; None counts all."""
    generator = torch.Generator().manual_seed(seed)
    table = (PaddedTable if padded else ExactTable)(
        GPTConfig(block_size=1, vocab_size=V, n_layer=1, n_head=1, n_embd=C)
    )
    with torch.no_grad():
        table.weight[:V] = torch.randn(V, C, generator=generator)
    x = size * torch.randn(1, N, C, generator=generator, dtype=torch.float64)
    targets = torch.randint(V, (1, N), generator=generator)
    if counted is not None:
        targets = targets.masked_fill(~torch.tensor(counted), -1)
    return x.to(device, dtype).requires_grad_(), table.to(device, dtype), targets.to(device)


def chunked(case: Case, rows: int) -> Tensor:
    x, table, targets = case
    return chunked_loss(x.flatten(0, -2), table.weight, targets.flatten(), table.vocab_size, rows)


def answers(value: Tensor, case: Case) -> dict[str, Tensor]:
    """The loss and its gradients for x and the table."""
    dx, dweight = torch.autograd.grad(value, (case[0], case[1].weight))
    return {"loss": value.detach(), "dx": dx, "dweight": dweight}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        error, allowed = relative(actual[name], tensor), 1e-12 if name == "loss" else 1e-11
        assert error <= allowed, f"{name}: off by {error:.1e}, allowed {allowed:.0e}"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 12, 13, 1000])
@pytest.mark.parametrize(
    "counted",
    [None, [True, False] * 6, [False] * 11 + [True], [True] + [False] * 11, [False] * 6 + [True] * 6],
    ids=["all", "every other", "the last", "the first", "none of the first chunk"],
)
def test_loss_and_gradients_are_those_of_the_plain_loss(counted: Any, rows: int, padded: bool) -> None:
    case = a_case(counted=counted, padded=padded)
    assert_same(answers(chunked(case, rows), case), answers(plain_loss(*case), case))


@settings(max_examples=60)
@given(data=st.data(), N=st.integers(1, 40), V=st.integers(1, 140), rows=st.integers(1, 50), padded=st.booleans())
def test_loss_and_gradients_are_the_plain_ones_for_any_size_chunk_and_mask(
    data: st.DataObject, N: int, V: int, rows: int, padded: bool
) -> None:
    counted = data.draw(st.lists(st.booleans(), min_size=N, max_size=N).filter(any))
    case = a_case(N, V, counted=counted, padded=padded, seed=N + V)
    actual, expected = answers(chunked(case, rows), case), answers(plain_loss(*case), case)
    if V == 1:  # one token is certain: all are exactly zero, and a relative error is undefined
        assert all(float(tensor.abs().max()) <= 1e-15 for tensor in actual.values())
    else:
        assert_same(actual, expected)


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_when_nothing_counts_the_loss_is_not_a_number_and_the_gradients_are_the_references(rows: int) -> None:
    case = a_case(counted=[False] * 12)
    actual, expected = answers(chunked(case, rows), case), answers(plain_loss(*case), case)
    assert actual["loss"].isnan()
    assert expected["loss"].isnan()
    for name in ("dx", "dweight"):
        assert torch.equal(actual[name], expected[name]), f"{name}: {actual[name].flatten()[:3]}"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("target", [29, 40, 127, 128, -2, -100])
def test_a_target_that_is_no_token_is_an_error_as_in_the_plain_loss(target: int, padded: bool) -> None:
    x, table, targets = a_case(padded=padded)
    targets[0, 3] = target
    for fused_or_plain in (fused_loss, plain_loss):
        with pytest.raises((RuntimeError, IndexError, ValueError), match=r"index|target"):
            fused_or_plain(x, table, targets)


@pytest.mark.parametrize("rows", [5, 100])
def test_only_the_gradient_that_is_asked_for_is_made(rows: int) -> None:
    case = a_case()
    expected = answers(plain_loss(*case), case)
    x, table, targets = case
    table.weight.requires_grad_(False)
    (dx,) = torch.autograd.grad(chunked(case, rows), x)
    assert_same({"dx": dx}, {"dx": expected["dx"]})
    table.weight.requires_grad_(True)
    frozen = x.detach(), table, targets
    (dweight,) = torch.autograd.grad(chunked(frozen, rows), table.weight)
    assert_same({"dweight": dweight}, {"dweight": expected["dweight"]})


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_loss_is_the_same_to_the_bit(context: Callable[[], AbstractContextManager[Any]]) -> None:
    case = a_case()
    value = chunked(case, 5)
    with context():
        again = chunked(case, 5)
    assert torch.equal(value.detach(), again)
    assert not again.requires_grad
    assert again.grad_fn is None


def test_neither_x_nor_the_table_nor_the_targets_are_changed() -> None:
    case = a_case(counted=[True, False] * 6, padded=True)
    before = [case[0].detach().clone(), case[1].weight.detach().clone(), case[2].clone()]
    answers(chunked(case, 5), case)
    for tensor, kept in zip((case[0], case[1].weight, case[2]), before, strict=True):
        assert torch.equal(tensor, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused_or_plain", [lambda *case: chunked(case, 5), plain_loss], ids=["fused", "plain"])
def test_logits_of_ten_thousand_stay_finite(fused_or_plain: Callable[..., Tensor], dtype: torch.dtype) -> None:
    case = a_case(size=1e4, dtype=dtype)
    found = answers(fused_or_plain(*case), case)
    assert float((case[0] @ case[1].weight.T).detach().abs().max()) > 1e4
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert float(found["loss"]) > 1e3
    assert float(found["dweight"].abs().max()) > 0


# --- what callers do with the loss


@pytest.mark.parametrize("scale", [1.0, 2.0**-10, 2.0**16, 1e-3, 1 / 3, -1.0, 0.0])
def test_a_loss_that_is_scaled_scales_its_gradients(scale: float) -> None:
    case = a_case()
    expected = answers(plain_loss(*case) * scale, case)
    actual = answers(chunked(case, 5) * scale, case)
    assert_same(actual, expected)
    whole = answers(chunked(case, 5), case)
    if scale in (1.0, 2.0**-10, 2.0**16, -1.0):
        assert torch.equal(actual["dx"], whole["dx"] * scale), "a power of two rounds nothing"


def test_losses_of_several_batches_add_up_before_one_backward() -> None:
    cases = [a_case(N, counted=[i % k != 0 for i in range(N)], seed=N) for N, k in ((12, 3), (7, 2), (1, 2), (30, 5))]
    cases[2] = a_case(1, seed=1)
    table = cases[0][1]
    joined = []
    for function in (lambda *case: chunked(case, 5), plain_loss):
        total = sum(
            weight * function(x, table, t) for weight, (x, _, t) in zip((1.0, 0.5, -2.0, 3.0), cases, strict=True)
        )
        joined.append(torch.autograd.grad(total, [table.weight, *(x for x, _, _ in cases)]))  # type: ignore[arg-type]
    for actual, expected in zip(*joined, strict=True):
        assert relative(actual, expected) <= 1e-11


def test_gradients_of_several_backwards_accumulate() -> None:
    sums = []
    for function in (lambda *case: chunked(case, 5), plain_loss):
        first, second = a_case(12, seed=1), a_case(7, seed=2)
        for x, _, targets in (first, second, first):
            (function(x, first[1], targets) / 3).backward()
        sums.append([first[1].weight.grad, first[0].grad, second[0].grad])
    for actual, expected in zip(*sums, strict=True):
        assert relative(actual, expected) <= 1e-11


def test_backward_twice_gives_the_same_twice() -> None:
    case = a_case()
    value = chunked(case, 5)
    first = torch.autograd.grad(value * 3.0, (case[0], case[1].weight), retain_graph=True)
    second = torch.autograd.grad(value * 3.0, (case[0], case[1].weight), retain_graph=True)
    third = torch.autograd.grad(value, (case[0], case[1].weight))
    expected = answers(plain_loss(*case), case)
    for name, a, b, c in zip(("dx", "dweight"), first, second, third, strict=True):
        assert torch.equal(a, b), name
        assert relative(a, 3.0 * expected[name]) <= 1e-11
        assert relative(c, expected[name]) <= 1e-11
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, case[0])


def test_a_gradient_of_the_gradient_is_refused() -> None:
    case = a_case()
    value = chunked(case, 5).square()  # a factor of the gradient that depends on x, beside the one that is kept
    (dx,) = torch.autograd.grad(value, case[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.square().sum().backward()  # type: ignore[no-untyped-call]


def test_the_table_gets_the_gradients_of_both_its_ends_in_a_model() -> None:
    ids, targets = random_batch(SMALL, 2, 9)
    plain, fused = sharp_reference(), sharp_model(only("fused_loss"))
    expected, actual = (gradients_of(m.loss(ids, targets), m)["wte.weight"] for m in (plain, fused))
    assert relative(actual, expected) <= 1e-11


# --- precision


def bfloat16_errors(rows: int | None, *, N: int = 512, seed: int = 0) -> dict[str, float]:
    """Against float64 under bf16 autocast, of float32 weights and stream; the plain loss where rows is None."""
    exact = a_case(N, 257, 32, dtype=torch.float64, seed=seed, counted=[i % 7 != 0 for i in range(N)])
    exact = exact[0].detach().float().double().requires_grad_(), exact[1], exact[2]
    oracle = answers(plain_loss(*exact), exact)
    case = a_case(N, 257, 32, dtype=torch.float32, seed=seed, counted=[i % 7 != 0 for i in range(N)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = plain_loss(*case) if rows is None else chunked(case, rows)
    found = answers(value, case)
    assert value.dtype == torch.float32
    assert {name: t.dtype for name, t in found.items()} == dict.fromkeys(found, torch.float32)
    return {name: relative(tensor, oracle[name]) for name, tensor in found.items()}


@pytest.mark.parametrize("rows", [1, 8, 100, 512])
def test_under_bf16_autocast_it_rounds_no_more_than_plain_code(rows: int) -> None:
    plain, fused = bfloat16_errors(None), bfloat16_errors(rows)
    for name, error in fused.items():
        factor = BF16_FACTORS["loss" if name == "loss" else "gradient"]
        assert error <= factor * plain[name] + BF16_ULP, f"{name}: {error:.1e}, plain code {plain[name]:.1e}"
        assert error > 1e-7, f"{name}: float64's own, so nothing was computed in bfloat16"


def test_many_chunks_add_up_no_worse_than_one() -> None:
    one = bfloat16_errors(4096, N=4096)
    many = bfloat16_errors(4, N=4096)  # 1024 sums: in bfloat16, what is added would be lost against what is there
    for name in one:
        assert many[name] <= 1.5 * one[name] + 1e-6, f"{name}: {many[name]:.1e} in 1024 chunks, {one[name]:.1e} in one"


def test_chunks_of_weights_that_are_bfloat16_themselves_add_up_in_float32_too() -> None:
    errors = {}
    for rows in (4096, 4):
        case = a_case(4096, 257, 32, dtype=torch.bfloat16)
        exact = case[0].detach().double().requires_grad_(), copy.deepcopy(case[1]).double(), case[2]
        found, oracle = answers(chunked(case, rows), case), answers(plain_loss(*exact), exact)
        errors[rows] = relative(found["dweight"], oracle["dweight"])
    assert errors[4] <= 1.5 * errors[4096], errors


def test_chunks_are_as_few_as_fit_into_their_bytes_and_of_equal_height(monkeypatch: pytest.MonkeyPatch) -> None:
    case, given = a_case(N=12, V=29), []
    real = loss.HeadAndLoss.apply
    monkeypatch.setattr(loss.HeadAndLoss, "apply", lambda *arguments: given.append(arguments[4]) or real(*arguments))
    row = 29 * 8  # bytes
    for size in (1, row, 2 * row - 1, 3 * row + 7, 5 * row, 7 * row, 11 * row, 12 * row, 100 * row):
        monkeypatch.setattr(loss, "CHUNK_BYTES", size)
        fused_loss(*case)
    assert given == [1, 1, 1, 3, 4, 6, 6, 12, 12]


def test_no_rows_are_no_number_as_in_the_plain_loss() -> None:
    x, table, targets = a_case(N=3, V=5)
    assert fused_loss(x[:0], table, targets[:0]).isnan()
    assert plain_loss(x[:0], table, targets[:0]).isnan()


@pytest.mark.parametrize("padded", [False, True])
def test_with_one_token_and_targets_that_do_not_count_nothing_is_lost(padded: bool) -> None:
    case = a_case(N=3, V=1, counted=[True, False, True], padded=padded)
    assert all(float(tensor.abs().max()) <= 1e-15 for tensor in answers(chunked(case, 2), case).values())


def test_the_loss_itself_is_summed_in_float32_under_autocast() -> None:
    case = a_case(4096, 3, 4, dtype=torch.float32, size=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = chunked(case, 7)
    assert abs(float(value.detach()) - float(plain_loss(case[0].double(), case[1].double(), case[2]).detach())) < 1e-5


def test_the_master_weights_keep_their_dtype_and_so_do_the_gradients_without_autocast() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        case = a_case(dtype=dtype)
        found = answers(chunked(case, 5), case)
        assert found["dx"].dtype == found["dweight"].dtype == dtype
        assert found["loss"].dtype == torch.promote_types(dtype, torch.float32)


# --- torch.compile of a caller


@pytest.mark.slow
# torch's own: its compiler makes an instance of autograd.Function, which is deprecated
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("autocast", [False, True])
def test_a_caller_may_be_compiled(autocast: bool) -> None:
    case = a_case(N=32, dtype=torch.float32)
    x, table, targets = case

    def caller(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            return chunked_loss((x * 2.0).flatten(0, 1), weight, targets.flatten(), table.vocab_size, 5) * 0.5

    expected = answers(caller(x, table.weight, targets), case)
    actual = answers(torch.compile(caller)(x, table.weight, targets), case)
    for name, tensor in expected.items():
        assert relative(actual[name], tensor) <= (2e-2 if autocast else 1e-5), name


# --- the logits never exist


class Largest(TorchDispatchMode):
    """Records the largest tensor that an operation returns, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.by = 0, ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            # a view of one number, expanded, takes no memory
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() > self.elements * tensor.itemsize:
                self.elements, self.by = tensor.untyped_storage().nbytes() // tensor.itemsize, str(function)
        return out


def largest_tensor(recipe: Recipe, rows: int, monkeypatch: pytest.MonkeyPatch) -> Largest:
    config = GPTConfig(block_size=32, vocab_size=1009, n_layer=1, n_head=1, n_embd=4)
    model = build(config, recipe, dtype=torch.float32 if "bf16" in recipe else torch.float64)
    width = 2 if "bf16" in recipe else 8  # bytes of a number in a chunk
    monkeypatch.setattr(loss, "CHUNK_BYTES", width * rows * model.wte.weight.shape[0])
    with Largest() as largest:
        model.loss(*random_batch(config, 4, 32)).backward()  # type: ignore[no-untyped-call]
    return largest


@pytest.mark.parametrize("rows", [3, 16, 50, 120])
@pytest.mark.parametrize(
    "recipe", [only("fused_loss"), only("fused_loss", "padded_vocab"), only("fused_loss", "bf16", "sdpa")], ids=str
)
def test_no_tensor_is_ever_as_large_as_all_the_logits(
    recipe: Recipe, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = largest_tensor(recipe, rows, monkeypatch)
    height = 1024 if "padded_vocab" in recipe else 1009
    allowed = max(rows * height, height * 4, 4 * 32 * 32)  # a chunk, the table, the scores of attention
    assert largest.elements <= allowed, f"{largest.by} made {largest.elements}, allowed {allowed}"
    assert allowed < 4 * 32 * 1009


def test_without_the_rung_a_tensor_is_as_large_as_all_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_tensor(only("padded_vocab"), 16, monkeypatch).elements >= 4 * 32 * 1009


MODULE = """
import torch
from bench.numerics.inputs import random_batch
from optimized import build, build_step, only
from reference import GPTConfig

def one_loss(rung):
    torch.set_num_threads(1)
    config = GPTConfig(block_size=512, vocab_size=50257, n_layer=1, n_head=1, n_embd=8)
    recipe = only("padded_vocab", "sdpa", *([rung] if rung else []))
    model = build(config, recipe)
    build_step(model, recipe)(*random_batch(config, 1, 8))  # libraries set up buffers on first use
    ids, targets = random_batch(config, 4, 512)
    def run():
        model.loss(ids, targets).backward()
    return run
"""


@pytest.mark.slow
def test_the_peak_of_memory_stays_below_all_the_logits(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    logits = 4 * 512 * 50304 * 4  # 412 MB in float32, and softmax and its gradient are as large
    started = [PeakMeasurement("losses:one_loss", rung) for rung in ("fused_loss", "")]
    fused, plain = (one.result().bytes for one in started)
    assert plain > 2 * logits, f"{plain / 1e6:.0f} MB: the plain loss does not have what the fused one is to save"
    assert fused < 0.6 * logits, f"{fused / 1e6:.0f} MB, {logits / 1e6:.0f} MB are all the logits"


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_on_cuda_loss_and_gradients_are_those_of_the_plain_loss(rows: int) -> None:
    case = a_case(padded=True, counted=[True, False] * 6, device="cuda")
    assert_same(answers(chunked(case, rows), case), answers(plain_loss(*case), case))


@pytest.mark.gpu
def test_on_cuda_the_logits_never_exist() -> None:
    config = GPTConfig(block_size=1024, vocab_size=50257, n_layer=1, n_head=1, n_embd=64)
    ids, targets = (t.cuda() for t in random_batch(config, 8, 1024))
    logits, peaks = 8 * 1024 * 50304 * 4, []
    for recipe in (only("padded_vocab", "sdpa", "fused_loss"), only("padded_vocab", "sdpa")):
        model = build(config, recipe, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.loss(ids, targets).backward()  # type: ignore[no-untyped-call]
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < logits / 2 < 4 * logits / 2 < peaks[1], f"{[peak / 1e6 for peak in peaks]} MB"


def test_wrong_means_and_lost_chunks_are_beyond_the_bounds() -> None:
    """A mean over ignored rows too, and a missing last chunk, are far beyond the bounds."""
    case = a_case()
    expected = answers(plain_loss(*case), case)
    with pytest.raises(AssertionError, match="loss: off by"):
        assert_same({**expected, "loss": expected["loss"] / 2}, expected)
    with pytest.raises(AssertionError, match="dx: off by"):
        assert_same({**expected, "dx": expected["dx"] * torch.tensor([1.0] * 11 + [0.0])[:, None]}, expected)
    with pytest.raises(AssertionError, match="dx: off by inf"):
        assert_same({**expected, "dx": expected["dx"] * math.nan}, expected)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "mm" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("grad", "expected"), [(True, 2), (False, 1)])
def test_an_evaluation_computes_no_gradient(grad: bool, expected: int) -> None:
    """The gradient would be half of the work, for nothing."""
    x, weight = torch.randn(6, 5), torch.randn(11, 5, requires_grad=True)
    with torch.set_grad_enabled(grad), Products() as products:
        chunked_loss(x, weight, torch.arange(6), 11)
    assert products.count == expected, "logits, and the gradient of the weight"
