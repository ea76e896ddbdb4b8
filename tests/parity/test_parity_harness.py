"""The comparison itself: every difference that it should notice fails it, and equal models pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contenders.torch_step import build_library_step
from bench.numerics.budgets import BUDGETS, Budget
from bench.numerics.errors import PIECE
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.parity import Measurement, Report, assert_same, compare, distance, measure_all
from reference import GPT, GPTConfig, build_step
from reference.functional import cross_entropy

CONFIG = GPTConfig(block_size=16, vocab_size=29, n_layer=2, n_head=2, n_embd=12)
EXACT = Budget(logits=0.0, loss=0.0, gradient=0.0, trajectory=0.0, update=0.0)


def gpt(seed: int = 0) -> GPT:
    model = GPT(CONFIG).double()
    model.load_state_dict(sharp_state_dict(CONFIG, seed))
    return model


class Altered(GPT):
    """The reference with one thing put over its logits or its gradients."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__(CONFIG)
        self.alter = logits
        self.double().load_state_dict(sharp_state_dict(CONFIG))

    def forward(self, ids: Tensor) -> Tensor:
        return self.alter(super().forward(ids))


def batch() -> tuple[Tensor, Tensor]:
    return random_batch(CONFIG, 2, 11)


def test_a_model_and_its_twin_differ_by_exactly_nothing() -> None:
    report = assert_same(gpt(), gpt(), *batch(), budget=EXACT)
    assert report.top1 == 1.0
    tensors = len(gpt().state_dict())
    counts = {q: len(report.of(q)) for q in ("logits", "loss", "gradient", "trajectory", "update")}
    assert counts == {"logits": 1, "loss": 1, "gradient": tensors, "trajectory": 20, "update": tensors}


def test_a_planted_nan_turns_it_red_and_is_infinite() -> None:
    def plant(logits: Tensor) -> Tensor:
        planted = torch.zeros_like(logits)
        planted[0, 3, 5] = math.nan
        return logits + planted

    report = compare(Altered(plant), gpt(), *batch(), steps=0)
    assert report.worst("logits").error == math.inf
    assert not math.isnan(report.over(BUDGETS["float64"]))
    with pytest.raises(AssertionError, match="logits logits: error inf"):
        assert_same(Altered(plant), gpt(), *batch(), steps=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_fail_on_either_side_and_on_both(bad: float) -> None:
    good, planted = torch.ones(4), torch.tensor([1.0, bad, 1.0, 1.0])
    assert distance(planted, good) == (math.inf, math.inf)
    assert distance(good, planted) == (math.inf, math.inf)
    assert distance(planted, planted.clone()) == (math.inf, math.inf)


def test_a_measurement_that_is_nan_counts_as_a_failure() -> None:
    report = Report([Measurement("logits", "logits", math.nan, math.nan)])
    assert len(report.failures(BUDGETS["float64"])) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("h.0.ln_1.weight", "h.0.ln_2.weight"),
        ("h.0.attn.q_proj.bias", "h.0.attn.v_proj.bias"),
        ("h.1.attn.q_proj.weight", "h.1.attn.k_proj.weight"),
        ("h.0.mlp.c_proj.bias", "h.1.mlp.c_proj.bias"),
    ],
)
def test_two_swapped_tensors_turn_it_red(first: str, second: str) -> None:
    """Once as different weights, and once behind the harness' back, so that only the results can tell."""
    swapped = gpt()
    state = swapped.state_dict()
    swapped.load_state_dict({**state, first: state[second].clone(), second: state[first].clone()})
    with pytest.raises(ValueError, match=re.escape(f"'{first}' differs between the two models")):
        compare(swapped, gpt(), *batch())
    swapped.state_dict = gpt().state_dict  # type: ignore[method-assign]
    ids, _ = batch()
    error, _ = distance(swapped(ids), gpt()(ids))
    assert error > 1e3 * BUDGETS["float64"].logits


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_difference_just_above_the_budget_is_red_and_just_below_is_green(factor: float) -> None:
    budget = BUDGETS["float64"]
    candidate = Altered(lambda logits: logits * (1.0 + factor * budget.logits))
    report = compare(candidate, gpt(), *batch(), steps=0)
    error = report.worst("logits").error
    assert error == pytest.approx(factor * budget.logits, rel=1e-2)
    logits_failed = any(m.quantity == "logits" for m in report.failures(budget))
    assert logits_failed == (factor > 1)


@pytest.mark.parametrize("name", ["h.0.ln_1.bias", "h.1.attn.k_proj.weight", "h.1.attn.v_proj.bias", "wpe.weight"])
def test_a_gradient_that_is_off_by_little_is_named(name: str) -> None:
    candidate = gpt()
    budget = BUDGETS["float64"]
    for factor in (0.5, 2.0):
        handle = dict(candidate.named_parameters())[name].register_hook(
            lambda g, factor=factor: g * (1.0 + factor * budget.gradient)
        )
        report = compare(candidate, gpt(), *batch(), steps=0)
        handle.remove()
        assert [m.name for m in report.failures(budget)] == ([name] if factor > 1 else [])


def test_a_gradient_that_is_missing_turns_it_red() -> None:
    candidate = gpt()
    candidate.h[1].mlp.c_fc.bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    report = compare(candidate, gpt(), *batch(), steps=0)
    assert report.worst("gradient").name == "h.1.mlp.c_fc.bias"
    assert report.worst("gradient").error == 1.0


def test_an_update_without_weight_decay_is_seen_although_the_weights_hardly_differ() -> None:
    def undecayed(model: nn.Module, **settings: Any) -> Any:
        return build_step(model, **{**settings, "weight_decay": 0.0})

    report = compare(gpt(), gpt(), *batch(), build=undecayed)
    assert report.worst("update").error > 1e6 * (BUDGETS["float64"].update or 0.0)
    weights = sharp_state_dict(CONFIG)
    moved = report.worst("update")
    assert moved.largest < 1e-3 * float(weights[moved.name].abs().max()), "this bug was meant to be small"


def test_an_update_of_the_key_bias_is_judged_by_an_absolute_bound() -> None:
    """Its gradient is zero in theory: noise passes, a real movement does not."""
    zeros = {"a.q_proj.bias": torch.ones(4), "a.k_proj.bias": torch.zeros(4)}
    noise = {"a.q_proj.bias": torch.ones(4), "a.k_proj.bias": torch.full((4,), 1e-12)}
    moved = {"a.q_proj.bias": torch.ones(4), "a.k_proj.bias": torch.full((4,), 1e-3)}
    assert max(m.error for m in measure_all("gradient", noise, zeros)) < 1e-11
    assert max(m.error for m in measure_all("gradient", moved, zeros)) > 1e-4


def test_another_loss_is_seen_where_the_logits_agree() -> None:
    class Unmasked(GPT):
        def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(self(ids), targets.clamp(min=0))

    candidate = Unmasked(CONFIG).double()
    candidate.load_state_dict(sharp_state_dict(CONFIG))
    report = compare(candidate, gpt(), *batch(), steps=0)
    assert report.worst("logits").error == 0.0
    assert report.worst("loss").error > 1e-3


def test_a_tensor_compared_with_itself_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(AssertionError, match="compared with itself"):
        distance(x, x)
    with pytest.raises(AssertionError, match="compared with itself"):
        distance(x, x.view(3))


def test_different_shapes_and_names_are_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match=re.escape("shapes differ: (3,) against (1,)")):
        distance(torch.ones(3), torch.ones(1))
    with pytest.raises(ValueError, match=re.escape("gradient: ['b'] are on one side only")):
        list(measure_all("gradient", {"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}))


@pytest.mark.parametrize(
    ("ids", "targets", "message"),
    [
        ([[3, 29]], [[0, 0]], "token id 29: this model's vocabulary has the ids 0 to 28"),
        ([[3, -1]], [[0, 0]], "token id -1: this model's vocabulary has the ids 0 to 28"),
        ([[3, 4]], [[0, 29]], "target 29: this model's vocabulary has the ids 0 to 28, and -1 means ignored"),
        ([[3, 4]], [[0]], "targets of shape (1, 1) and type torch.int64: give int64, one for each of the ids (1, 2)"),
        ([[3.0, 4.0]], [[0, 0]], "ids of shape (1, 2) and type torch.float32: give int64 ids"),
    ],
)
def test_a_batch_that_the_models_have_no_tokens_for_is_refused(
    ids: list[list[float]], targets: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compare(gpt(), gpt(), torch.tensor(ids), torch.tensor(targets))


def test_the_error_is_relative_l2_in_float64() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    error, largest = distance(a, b)
    assert error == pytest.approx(0.5 / math.hypot(3.0, 4.5), rel=1e-15)
    assert largest == 0.5
    assert distance(torch.tensor([1.0]), torch.tensor([0.0]))[0] == math.inf
    assert distance(torch.tensor([0.0]), torch.tensor([0.0]))[0] == 0.0


def test_comparing_leaves_both_models_as_they_were() -> None:
    a, b = gpt().train(), gpt().eval()
    compare(a, b, *batch(), oracle_build=build_library_step)
    assert a.training
    assert not b.training
    for name, tensor in sharp_state_dict(CONFIG).items():
        assert torch.equal(a.state_dict()[name], tensor), name
        assert torch.equal(b.state_dict()[name], tensor), name
    assert all(p.grad is None for p in (*a.parameters(), *b.parameters()))


def test_dropout_does_not_take_part_in_a_comparison_unless_it_is_alive_in_eval() -> None:
    class Alive(GPT):
        def forward(self, ids: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(ids), 0.1, training=True)

    quiet = GPT(GPTConfig(**{**vars(CONFIG), "dropout": 0.5})).double().train()
    quiet.load_state_dict(sharp_state_dict(CONFIG))
    assert_same(quiet, gpt(), *batch(), budget=EXACT, steps=0)
    alive = Alive(CONFIG).double()
    alive.load_state_dict(sharp_state_dict(CONFIG))
    with pytest.raises(AssertionError, match="logits"):
        assert_same(alive, gpt(), *batch(), steps=0)


def test_the_message_names_the_tensor_the_error_and_what_was_allowed() -> None:
    candidate = gpt()
    dict(candidate.named_parameters())["h.1.ln_2.bias"].register_hook(lambda g: g * 1.5)
    with pytest.raises(AssertionError) as caught:
        assert_same(candidate, gpt(), *batch(), steps=0)
    message = str(caught.value)
    count = 2 + len(candidate.state_dict())  # logits, loss and every gradient
    assert f"1 of {count} measurements are beyond their budget:" in message
    assert "gradient h.1.ln_2.bias: error 5.00e-01, allowed 1e-11, 5e+10 times the budget" in message


def test_a_quantity_that_was_not_measured_says_which_were() -> None:
    report = compare(gpt(), gpt(), *batch(), steps=0)
    with pytest.raises(
        ValueError, match=re.escape("'update' was not measured; there are ['gradient', 'logits', 'loss']")
    ):
        report.worst("update")


@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 2 * PIECE + 2])
def test_a_difference_is_found_in_whichever_piece_it_is(place: int) -> None:
    expected = torch.ones(2 * PIECE + 3, dtype=torch.float64)
    actual = expected.clone()
    actual[place] += 0.5
    error, largest = distance(actual, expected)
    assert largest == 0.5
    assert error == pytest.approx(0.5 / math.sqrt(len(expected)), rel=1e-12)
    actual[place] = math.nan
    assert distance(actual, expected) == (math.inf, math.inf)


def test_a_difference_whose_square_is_too_small_for_a_float_is_no_zero() -> None:
    error, largest = distance(torch.tensor([1e-200], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 1.0)
    assert error == largest == 1e-200
