"""A batch in pieces gives the gradient and the loss of the whole batch, for every split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from optimized import PLAIN, Recipe, build_step, only
from optimized.step import TrainingStep
from tests.optimized.models import SMALL, gradients_of, relative, sharp_model

IDS = torch.randint(SMALL.vocab_size, (5, 9), generator=torch.Generator().manual_seed(0))
TARGETS = IDS.roll(-1, dims=1)
TARGETS[1, 2:], TARGETS[3] = -1, -1  # unequal counts, and a row in which nothing counts


class Watched:
    """An exchange between `world` processes with equal shares, which records its calls."""

    def __init__(self, model: nn.Module, world: int) -> None:
        self.model, self.world = model, world
        self.rows: list[int] = []
        self.held_back: list[bool] = []
        self.sums = 0
        self.holding = False

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        self.rows.append(len(ids))
        self.held_back.append(self.holding)
        out: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return out

    def sum(self, tensor: Tensor) -> Tensor:
        self.sums += 1
        return tensor * self.world

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self.holding = True
        yield
        self.holding = False


def a_step(recipe: Recipe, micro_batch: int | None, world: int = 1) -> tuple[TrainingStep, Watched]:
    model = sharp_model(recipe)
    step = build_step(model, recipe, micro_batch=micro_batch)
    step.exchange = watched = Watched(model, world)
    return step, watched


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("recipe", [PLAIN, only("fused_loss")], ids=str)
def test_pieces_add_up_to_the_whole(recipe: Recipe, micro_batch: int | None, world: int) -> None:
    step, _ = a_step(recipe, micro_batch, world)
    whole = step.model.loss(IDS, TARGETS)  # type: ignore[operator]
    expected = gradients_of(whole, step.model)
    loss = step.gradients(IDS, TARGETS)
    assert relative(loss, whole) <= 1e-12
    assert not loss.requires_grad
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()  # that of the keys' bias is zero
    for name, parameter in step.model.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - expected[name]).norm() <= 1e-12 * size, name


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(
    "micro_batch, rows", [(None, [5]), (5, [5]), (9, [5]), (4, [4, 1]), (2, [2, 2, 1]), (1, [1, 1, 1, 1, 1])]
)
def test_gradients_are_exchanged_with_the_last_piece_and_with_no_other(
    micro_batch: int | None, rows: list[int], world: int
) -> None:
    step, watched = a_step(PLAIN, micro_batch, world)
    step(IDS, TARGETS)
    assert watched.rows == rows
    assert watched.held_back == [True] * (len(rows) - 1) + [False]


def test_before_the_first_step_the_norm_of_the_gradient_is_zero() -> None:
    step, _ = a_step(PLAIN, None)
    assert float(step.gradient_norm) == 0.0
    step(IDS, TARGETS)
    assert float(step.gradient_norm) > 0.0


@pytest.mark.parametrize("micro_batch, world, sums", [(None, 1, 0), (5, 1, 0), (2, 1, 2), (None, 2, 2), (2, 2, 2)])
def test_nothing_is_counted_or_exchanged_where_a_batch_is_whole(micro_batch: int | None, world: int, sums: int) -> None:
    step, watched = a_step(PLAIN, micro_batch, world)
    step(IDS, TARGETS)
    assert watched.sums == sums, "the number of targets, and the loss"


def test_pieces_add_up_where_the_model_is_whatever_the_default_device() -> None:
    step, _ = a_step(PLAIN, 2)
    with torch.device("meta"):
        assert float(step(IDS, TARGETS)) > 0.0


@pytest.mark.parametrize("rows", [2, 3])
def test_targets_for_some_rows_alone_are_refused_and_nothing_is_trained(rows: int) -> None:
    step, _ = a_step(PLAIN, 2)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    with pytest.raises(ValueError):  # noqa: PT011
        step(IDS, TARGETS[:rows])
    assert all(torch.equal(before[name], p) for name, p in step.model.named_parameters())
