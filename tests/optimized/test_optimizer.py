"""The fused AdamW and the one by hand: equal updates, equal state, in the same layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.numerics.inputs import random_batch, sharp_state_dict
from optimized import FULL, PLAIN, Recipe, build, build_step, only
from optimized.gpt import GPT
from optimized.optimizer import CanonicalAdamW, FusedAdamW
from reference import build_step as reference_step
from reference.checkpoints.canonical import from_canonical
from reference.training.adamw import AdamW
from tests.optimized.models import SMALL, relative, sharp_model, sharp_reference

Optimizer = CanonicalAdamW | FusedAdamW
KINDS: list[type[Optimizer]] = [CanonicalAdamW, FusedAdamW]
EVERY = FULL.without("compile", "ddp", "bf16")
RECIPES = [PLAIN, only("fused_qkv"), only("padded_vocab"), only("fused_adamw"), EVERY, EVERY.without("fused_adamw")]
SETTINGS = [
    {"weight_decay": 0.1, "betas": (0.9, 0.95)},
    {"weight_decay": 0.5, "betas": (0.8, 0.999)},
    {"weight_decay": 0.0, "betas": (0.0, 0.0)},
]


def set_gradients(models: tuple[nn.Module, ...], seed: int, scale: float = 1.0) -> None:
    """The same random gradients on every model, over four decades; zeros on padding."""
    noise = sharp_state_dict(SMALL, seed=seed + 100)
    canonical = {name: scale * tensor * 10.0 ** (2 * tensor.sin()) for name, tensor in noise.items()}
    for model in models:
        own = from_canonical(model, canonical)
        for name, parameter in model.named_parameters():
            parameter.grad = own[name]


def updates(model: Any, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() - before[name] for name, tensor in model.state_dict().items()}


def snapshot(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("recipe", [only("fused_adamw"), EVERY], ids=str)
def test_the_fused_update_is_the_one_by_hand(recipe: Recipe, settings: dict[str, Any]) -> None:
    ours, theirs = sharp_model(recipe), sharp_reference()
    a, b = FusedAdamW(ours, **settings), AdamW(theirs, **settings)
    before = snapshot(theirs)
    for step in range(20):
        a.learning_rate = b.learning_rate = 1e-3 * (step + 1)
        set_gradients((ours, theirs), step, scale=10.0 ** (step % 5 - 2))
        a.step()
        b.step()
    expected = updates(theirs, before)
    for name, update in updates(ours, before).items():
        assert relative(update, expected[name]) <= 1e-9, name
    assert a.steps == b.steps == 20


@pytest.mark.parametrize("recipe", [only("fused_adamw"), EVERY, EVERY.without("fused_adamw")], ids=str)
def test_whole_training_steps_with_clipping_equal_those_by_hand(recipe: Recipe) -> None:
    sides = sharp_model(recipe), sharp_reference()
    before = snapshot(sides[1])
    settings: dict[str, Any] = {"learning_rate": lambda s: 1e-4 * (s + 1), "weight_decay": 0.3, "clip": 0.5}
    steps = build_step(sides[0], recipe, **settings), reference_step(sides[1], **settings)
    for seed in range(20):
        ids, targets = random_batch(SMALL, 2, 9, seed=seed)
        loss, expected = (step(ids, targets) for step in steps)
        assert relative(loss, expected) <= 1e-11
        assert relative(steps[0].gradient_norm, steps[1].gradient_norm) <= 1e-11
        assert float(steps[1].gradient_norm) > 0.5, "nothing was clipped"
    expected_updates = updates(sides[1], before)
    for name, update in updates(sides[0], before).items():
        scale = 1e-9 * float(expected_updates[name].norm())
        if name.endswith("k_proj.bias"):  # its gradient is zero in theory and rounding in practice, which Adam blows up
            scale = 1e-4 * 20 * math.sqrt(update.numel())
        assert float((update - expected_updates[name]).norm()) <= scale, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", [PLAIN, EVERY], ids=str)
def test_matrices_and_embeddings_decay_and_nothing_else(recipe: Recipe, kind: type[Optimizer]) -> None:
    model = sharp_model(recipe)
    before = snapshot(model)
    optimizer = kind(model, weight_decay=0.5)
    optimizer.learning_rate = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in model.state_dict().items():
        decayed = not (name.endswith("bias") or "ln_" in name)
        expected = before[name] * (1.0 - 0.05) if decayed else before[name]
        assert relative(tensor, expected) <= 1e-15, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_a_gradient_is_left_alone_and_keeps_pace(kind: type[Optimizer]) -> None:
    """Its later bias correction depends on the step, as by hand, not on the number of its own updates."""
    ours, theirs = sharp_model(PLAIN), sharp_reference()
    a, b = kind(ours), AdamW(theirs)
    a.learning_rate = b.learning_rate = 1e-2
    before = snapshot(theirs)
    for step in range(6):
        set_gradients((ours, theirs), step)
        if step in (0, 3):
            kept = ours.wpe.weight.detach().clone()
            ours.wpe.weight.grad = theirs.wpe.weight.grad = None
        a.step()
        b.step()
        if step in (0, 3):
            assert torch.equal(ours.wpe.weight, kept)
    expected = updates(theirs, before)
    for name, update in updates(ours, before).items():
        assert relative(update, expected[name]) <= 1e-9, name
    assert_equal(a.state_dict(), b.state_dict(), bound=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_grad_forgets_and_a_step_without_gradients_moves_nothing(kind: type[Optimizer]) -> None:
    model = sharp_model(PLAIN)
    before = snapshot(model)
    optimizer = kind(model, weight_decay=0.5)
    optimizer.learning_rate = 0.1
    set_gradients((model,), 0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6, math.inf])
def test_clipping_is_the_references(kind: type[Optimizer], limit: float) -> None:
    ours, theirs = sharp_model(PLAIN), sharp_reference()
    set_gradients((ours, theirs), 1)
    norm = kind(ours).clip(limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    assert relative(norm, expected) <= 1e-14
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert relative(p.grad, q.grad) <= 1e-14, name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_not_numbers_show_in_the_norm(kind: type[Optimizer]) -> None:
    model = sharp_model(PLAIN)
    set_gradients((model,), 1)
    model.wpe.weight.grad[0, 0] = math.nan
    assert kind(model).clip(1.0).isnan()


def test_a_fused_step_counts_as_a_write() -> None:
    """Code that reads torch's count of writes, such as the inference copy, must notice changed weights."""
    model = sharp_model(PLAIN)
    optimizer = FusedAdamW(model)
    optimizer.learning_rate = 1e-3
    set_gradients((model,), 0)
    before = {name: p._version for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter._version > before[name], name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weight_decay": -0.1}, r"^weight decay -0.1: give 0 or more$"),
        ({"betas": (0.9, 1.0)}, r"^beta2 = 1.0: give a number from 0 up to, not including, 1$"),
        ({"betas": (-0.1, 0.9)}, r"^beta1 = -0.1: give"),
        ({"weight_decay": math.nan}, r"^weight decay nan"),
    ],
    ids=str,
)
def test_invalid_settings_are_refused(kind: type[Optimizer], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(sharp_model(PLAIN), **settings)


@pytest.mark.parametrize("recipe", [PLAIN, FULL.without("compile")], ids=str)
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"clip": 0.0}, r"^clip = 0.0: give a number above 0; inf switches clipping off$"),
        ({"clip": math.nan}, r"^clip = nan"),
        ({"micro_batch": 0}, r"^micro-batch 0: give 1 or more rows$"),
    ],
    ids=str,
)
def test_invalid_settings_of_a_step_are_refused(recipe: Recipe, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_step(sharp_model(recipe), recipe, **settings)


# --- state


def trained(recipe: Recipe, steps: int = 3) -> tuple[GPT, Optimizer]:
    model = sharp_model(recipe)
    step = build_step(model, recipe)
    for seed in range(steps):
        step(*random_batch(SMALL, 2, 9, seed=seed))
    return model, step.optimizer


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float = 0.0) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert relative(actual[name], tensor) <= bound, name


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_state_has_the_names_and_shapes_of_the_references(recipe: Recipe) -> None:
    state, expected = trained(recipe)[1].state_dict(), AdamW(sharp_reference()).state_dict()
    assert list(state) == list(expected)
    assert {n: (t.shape, t.dtype) for n, t in state.items()} == {n: (t.shape, t.dtype) for n, t in expected.items()}
    assert int(state["step"]) == 3
    assert all(bool((t != 0).any()) for n, t in state.items()), "moments of nothing but zeros show nothing"


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_it_goes_to_the_reference_and_back_to_any_recipe_bitwise(recipe: Recipe) -> None:
    state = copied(trained(recipe)[1].state_dict())
    reference = AdamW(sharp_reference())
    reference.load_state_dict(state)
    assert_equal(reference.state_dict(), state)
    for other in RECIPES:
        optimizer = trained(other, steps=1)[1]
        optimizer.load_state_dict(copied(reference.state_dict()))
        assert_equal(optimizer.state_dict(), state)
        assert optimizer.steps == 3


def test_training_goes_on_from_a_loaded_state_as_if_it_had_not_stopped() -> None:
    model, _ = trained(EVERY, 6)
    start, optimizer = trained(EVERY, 3)
    again = build(SMALL, EVERY, start.state_dict(), dtype=torch.float64)
    step = build_step(again, EVERY)
    step.optimizer.load_state_dict(optimizer.state_dict())
    for seed in range(3, 6):
        step(*random_batch(SMALL, 2, 9, seed=seed))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("recipe", [PLAIN, EVERY], ids=str)
def test_loading_copies(recipe: Recipe) -> None:
    state = copied(trained(recipe)[1].state_dict())
    kept = copied(state)
    model, optimizer = trained(recipe, steps=1)
    optimizer.load_state_dict(state)
    set_gradients((model,), 0)
    optimizer.step()
    assert_equal(state, kept)


def test_the_library_is_asked_for_its_fused_step_with_the_settings_of_the_reference() -> None:
    library = FusedAdamW(sharp_model(EVERY), weight_decay=0.3, betas=(0.8, 0.9)).adamw
    asked = {name: library.defaults[name] for name in ("fused", "betas", "eps")}
    assert asked == {"fused": True, "betas": (0.8, 0.9), "eps": 1e-8}
    assert [group["weight_decay"] for group in library.param_groups] == [0.3, 0.0]


def test_steps_are_counted_in_float32_as_the_library_does_it_whatever_torchs_default() -> None:
    model, default = sharp_model(EVERY), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        states = FusedAdamW(model).adamw.state.values()
        assert {state["step"].dtype for state in states} == {torch.float32}
    finally:
        torch.set_default_dtype(default)


KEYS = "h.1.attn.k_proj"
Fault = Callable[[dict[str, Tensor]], object]


def lost(name: str) -> Fault:
    return lambda state: state.pop(name)


def put(name: str, *shape: int) -> Fault:
    return lambda state: state.update({name: torch.ones(shape)})


SHAPES = r"has shape \({}\), this model needs \({}\)"
FAULTS: dict[str, tuple[Fault, str]] = {
    "no step": (lost("step"), "'step' is missing for this model"),
    "no moment": (lost("exp_avg/wte.weight"), "exp_avg/wte.weight: missing"),
    "no last moment": (lost("exp_avg_sq/ln_f.bias"), "exp_avg_sq/ln_f.bias: missing"),
    "no third of a fused one": (lost(f"exp_avg_sq/{KEYS}.weight"), f"exp_avg_sq/{KEYS}.weight: missing"),
    "one too many": (put("exp_avg/h.9.x", 1), "exp_avg/h.9.x: unknown to this model"),
    "another kind": (put("momentum/wte.weight", 1), "'momentum/wte.weight' is unknown to this model"),
    "padded": (put("exp_avg/wte.weight", 128, 24), "exp_avg/wte.weight " + SHAPES.format("128, 24", "101, 24")),
    "misshapen third": (put(f"exp_avg/{KEYS}.bias", 48), f"exp_avg/{KEYS}.bias " + SHAPES.format("48,", "24,")),
    "misshapen last": (put("exp_avg_sq/ln_f.weight", 25), "exp_avg_sq/ln_f.weight " + SHAPES.format("25,", "24,")),
    "several steps": (put("step", 2), "'step' " + SHAPES.format("2,", "")),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("recipe", [PLAIN, EVERY], ids=str)
def test_a_state_that_does_not_fit_is_named_and_changes_nothing(recipe: Recipe, fault: str) -> None:
    model, optimizer = trained(recipe, steps=2)
    weights, before = snapshot(model), copied(optimizer.state_dict())
    state = copied(trained(recipe, steps=3)[1].state_dict())
    break_it, message = FAULTS[fault]
    break_it(state)
    with pytest.raises(ValueError, match=f"^optimizer state: {message}$") as error:
        optimizer.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert_equal(optimizer.state_dict(), before)
    assert optimizer.steps == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [only("fused_adamw"), EVERY], ids=str)
def test_on_cuda_the_fused_update_is_the_one_by_hand(recipe: Recipe) -> None:
    ours, theirs = sharp_model(recipe, device="cuda"), sharp_reference().cuda()
    a, b = FusedAdamW(ours), AdamW(theirs)
    before = snapshot(theirs)
    for step in range(20):
        a.learning_rate = b.learning_rate = 1e-3
        set_gradients((ours, theirs), step)
        a.clip(1.0)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        a.step()
        b.step()
    expected = updates(theirs, before)
    for name, update in updates(ours, before).items():
        assert relative(update, expected[name]) <= 1e-9, name
    b.load_state_dict(a.state_dict())
    assert_equal(b.state_dict(), a.state_dict())
