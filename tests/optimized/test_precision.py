"""bf16 affects products only, and TF32 is on only inside its context."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.numerics.budgets import BF16_FACTORS
from bench.numerics.inputs import random_batch, sharp_state_dict, typical_state_dict
from optimized import FULL, PLAIN, Recipe, build, build_step, builder, generate, only
from optimized.precision import TF32, BFloat16, Exact
from reference.checkpoints.canonical import canonical_gradients
from tests.optimized.models import SMALL, relative, sharp_model, sharp_reference

EAGER = FULL.without("compile", "ddp")
RECIPES = [only("bf16"), only("bf16", "fused_kernels"), only("bf16", "sdpa", "fused_loss"), EAGER]
IDS, TARGETS = random_batch(SMALL, 2, 9)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_weights_gradients_and_moments_are_float32(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    step = build_step(model, recipe)
    loss = step(IDS, TARGETS)
    kinds = {
        "loss": [loss],
        "weights": list(model.parameters()),
        "gradients": [p.grad for p in model.parameters()],
        "state": list(model.state_dict().values()),
        "moments": [m for kind in ("exp_avg", "exp_avg_sq") for m in step.optimizer.moments(kind).values()],
    }
    for what, tensors in kinds.items():
        assert {t.dtype for t in tensors if t is not None} == {torch.float32}, what
        assert all(t is not None for t in tensors), what
    assert not torch.is_autocast_enabled("cpu"), "autocast is left on"


class Dtypes(TorchDispatchMode):
    """The dtypes of inputs and outputs of each operation, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, set[torch.dtype]] = {}
        self.made: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").partition(".")[0].removesuffix("_")
        for kept, values in ((self.given, args), (self.made, out if isinstance(out, tuple) else (out,))):
            floats = {t.dtype for t in values if isinstance(t, Tensor) and t.is_floating_point()}
            kept.setdefault(name, set()).update(floats)
        return out


PRODUCTS = ("mm", "addmm", "bmm", "_scaled_dot_product_flash_attention_for_cpu")
# exp, log and sums of softmax and loss, roots and means of norms, additions of the stream
EXACT = (
    *("exp", "log", "sum", "amax", "mean", "sqrt", "var_mean", "_softmax", "_log_softmax", "native_layer_norm", "div"),
    *("gather", "embedding"),
)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_products_are_bfloat16_and_softmax_norms_and_loss_float32(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    with Dtypes() as dtypes:
        model.loss(IDS, TARGETS)
    seen = {name: dtypes.given[name] for name in PRODUCTS if name in dtypes.given}
    assert seen.keys() >= {"mm"}
    assert len(seen) >= 2
    assert all(found == {torch.bfloat16} for found in seen.values()), seen
    exact = {name: dtypes.made[name] for name in EXACT if dtypes.made.get(name)}
    assert len(exact) >= 2, sorted(dtypes.made)
    assert all(torch.bfloat16 not in found for found in exact.values()), exact


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_residual_stream_is_float32(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    streams: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        streams.extend((args[0], out))

    for module in (*model.h, model.ln_f):
        module.register_forward_hook(note)
    model.loss(IDS, TARGETS)
    assert len(streams) == 2 * (SMALL.n_layer + 1)
    assert {stream.dtype for stream in streams} == {torch.float32}
    assert all(relative(x, x.bfloat16()) > 1e-4 for x in streams), "float32 in name, with the digits of bfloat16"


def test_logits_leave_in_the_precision_of_the_products() -> None:
    assert sharp_model(only("bf16"))(IDS).dtype == torch.bfloat16
    assert sharp_model(PLAIN)(IDS).dtype == torch.float64
    assert sharp_model(only("tf32").without("tf32"), dtype=torch.float32)(IDS).dtype == torch.float32


def test_bf16_is_bfloat16_whatever_precision_autocast_has_otherwise() -> None:
    model, usual = sharp_model(only("bf16")).eval(), torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        assert model(torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.bfloat16
    finally:
        torch.set_autocast_dtype("cpu", usual)


# --- a CPU without the instructions


@pytest.mark.filterwarnings("error")
def test_a_cpu_without_bf16_instructions_gets_one_line_that_says_it_will_be_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builder, "computes_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="bf16") as warned:
        model = build(SMALL, EAGER, sharp_state_dict(SMALL))
    assert len(warned) == 1
    message = str(warned[0].message)
    assert message == (
        "bf16: this CPU has no bfloat16 instructions and emulates them, which is slow; leave the rung out of the "
        "recipe for speed"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_step(model, EAGER)(IDS, TARGETS).isfinite(), "slow, and right"
        build(SMALL, EAGER.without("bf16"))
        builder.choose_precision(FULL, torch.device("cuda"))


def test_the_line_about_slow_bf16_names_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "computes_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="bf16") as warned:
        build(SMALL, EAGER, sharp_state_dict(SMALL))
    assert Path(warned[0].filename).name == "builder.py"


@pytest.mark.filterwarnings("error")
def test_a_cpu_with_bf16_instructions_gets_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "computes_bfloat16", lambda: True)
    build(SMALL, only("bf16"))


# --- TF32


class MatmulPrecision(TorchFunctionMode):
    """Records torch's setting at every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("around", ["forward", "step"])
def test_tf32_is_on_inside_and_as_it_was_outside_even_after_an_error(before: str, around: str) -> None:
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with getattr(TF32(Exact()), around)():
            assert torch.get_float32_matmul_precision() == "high"
            with TF32(Exact()).forward():
                assert torch.get_float32_matmul_precision() == "high"
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(ZeroDivisionError), getattr(TF32(Exact()), around)():
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(kept)


def test_a_tf32_model_has_it_on_forward_and_backward_and_off_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp_model(PLAIN, dtype=torch.float32)  # a CPU has the setting, but no TF32
    model.precision = TF32(Exact())
    found = []
    handle = model.ln_f.register_full_backward_hook(lambda *_: found.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    with MatmulPrecision() as inside:
        model.hidden(IDS)
    assert inside.found == {before}
    step = build_step(model, PLAIN)
    step(IDS, TARGETS)
    handle.remove()
    assert found == ["high"], "the backward pass"
    assert torch.get_float32_matmul_precision() == before
    generate(model.eval(), IDS, 2)
    assert torch.get_float32_matmul_precision() == before


def test_tf32_over_bf16_does_both() -> None:
    both = TF32(BFloat16(torch.device("cpu")))
    with both.forward():
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "high"
    with both.step():
        assert not torch.is_autocast_enabled("cpu"), "autocast is for forward passes alone"
    assert isinstance(builder.choose_precision(only("tf32", "bf16"), torch.device("cuda")), TF32)


TF32_ULP = 2.0**-11  # of an input rounded to 10 bits after the leading one


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [only("tf32"), EAGER.without("bf16").plus("tf32")], ids=str)
def test_on_cuda_tf32_rounds_no_more_than_plain_code_does_with_it(recipe: Recipe) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this device has no TF32")
    weights, (ids, targets) = typical_state_dict(SMALL), (IDS.cuda(), TARGETS.cuda())
    before = torch.get_float32_matmul_precision()
    found = []
    for name in ("oracle", "plain", "float32", "tf32"):
        if name in ("oracle", "plain"):
            model: Any = sharp_reference(dtype=torch.float32)
            model.load_state_dict(weights)
            model.to("cuda", torch.float64 if name == "oracle" else torch.float32)
        else:
            model = build(SMALL, recipe if name == "tf32" else recipe.without("tf32"), weights, "cuda")
        # torch's setting holds for the plain code from outside; the rung sets it itself
        torch.set_float32_matmul_precision("high" if name == "plain" else before)
        try:
            logits = model(ids)
            step = Exact() if name in ("oracle", "plain") else model.precision
            with step.step():
                model.loss(ids, targets).backward()
        finally:
            torch.set_float32_matmul_precision(before)
        found.append({"logits": logits.detach(), **canonical_gradients(model)})
    oracle, plain, float32, tf32 = found
    assert relative(float32["logits"], oracle["logits"]) < 5e-6
    assert relative(tf32["logits"], oracle["logits"]) > TF32_ULP / 50, "as exact as float32: it was not on"
    size = max(float(g.norm()) for name, g in oracle.items() if name != "logits")
    for name, exact in oracle.items():
        if float(exact.norm()) > 1e-6 * size:  # not the key bias, which is zero in theory
            factor = BF16_FACTORS["logits" if name == "logits" else "gradient"]
            error, allowed = relative(tf32[name], exact), factor * relative(plain[name], exact) + TF32_ULP
            assert error <= allowed, f"{name}: {error:.1e}, allowed {allowed:.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [only("bf16"), EAGER, FULL.without("ddp")], ids=str)
def test_on_cuda_bf16_keeps_weights_stream_and_loss_in_float32(recipe: Recipe) -> None:
    model = sharp_model(recipe, device="cuda")
    loss = build_step(model, recipe)(IDS.cuda(), TARGETS.cuda())
    assert {t.dtype for t in (loss, *model.parameters(), *(p.grad for p in model.parameters()))} == {torch.float32}
    assert model.hidden(IDS.cuda()).dtype == torch.float32
    assert torch.equal(
        generate(model.eval(), IDS.cuda(), 8, temperature=0.0),
        generate(build(SMALL, recipe, model.state_dict(), "cuda").eval(), IDS.cuda(), 8, temperature=0.0),
    )
