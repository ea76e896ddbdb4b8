"""Checks of training: optimizer, one step, several steps, micro-batches, two ranks, schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.parity import measure_all
from reference.checkpoints.canonical import canonical_gradients
from reference.training.schedule import learning_rate
from tests.bugs import oracle
from tests.bugs.checks import (
    CONFIG,
    GRADIENT,
    LOSS,
    TRAJECTORY,
    UPDATE,
    H,
    Outcome,
    check,
    count,
    each,
    near,
    sharp,
    uneven,
    worst,
)
from tests.bugs.checks_of_models import small_chunks
from tests.bugs.ranks import InMemory, Meeting, together
from tests.bugs.sides import Side


def rate(step: int) -> float:
    """A learning rate that no step shares with another."""
    return 1e-2 / (1 + step)


CLIPS = {"clipped": 0.1, "not clipped": 1e3}


def batches(seed: int, number: int) -> list[oracle.Batch]:
    return [uneven(1000 * seed + step) for step in range(number)]


@cache
def trained(seed: int, steps: int, clip: float) -> oracle.Trained:
    return oracle.Trained(sharp(seed), batches(seed, steps), H, learning_rate=rate, clip=clip)


def moments_of(model: nn.Module, optimizer: Any) -> dict[str, dict[str, Tensor]]:
    """The optimizer's moments, by canonical names."""
    state = optimizer.state_dict()
    kinds = ("exp_avg", "exp_avg_sq")
    return {
        kind: {n.removeprefix(f"{kind}/"): t for n, t in state.items() if n.startswith(f"{kind}/")} for kind in kinds
    }


def train(step: Any, model: nn.Module, batches: Sequence[oracle.Batch]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The loss of each step, and by how much each canonical weight has moved."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [step(*one) for one in batches]
    return losses, {name: tensor - before[name] for name, tensor in model.state_dict().items()}


def movement(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> Outcome:
    """How far updates are from the oracle's.

    The gradient of a key bias is zero in theory and some 1e-17 in practice. AdamW divides it by eps = 1e-8, and so
    moves it by up to 1e-8 of the way of the others, wherever rounding leads.
    """
    noisy = {name for name in expected if name.endswith("k_proj.bias")}
    budgets = {name: 100 * UPDATE if name in noisy else UPDATE for name in expected}
    return worst(
        Outcome(m.error, budgets[m.name], f"{what} of {m.name}") for m in measure_all("update", found, expected)
    )


def micro_batch(side: Side) -> int | None:
    """Two of five rows at a time, where pieces are known: 2, 2 and 1."""
    return None if side.recipe is None else 2


@check("O", "one step", "are movement, moments and gradient norm those of torch's AdamW, with clipping and without?")
def one_step(side: Side, seed: int) -> Outcome:
    outcomes = []
    for what, clip in CLIPS.items():
        model = side.model(sharp(seed), CONFIG)
        step = side.step(model, learning_rate=rate, weight_decay=0.1, clip=clip)
        _, update = train(step, model, batches(seed, 1))
        expected = trained(seed, 1, clip)
        outcomes.append(near(f"gradient norm, {what}", step.gradient_norm, expected.norms[0], GRADIENT))
        outcomes.append(movement(update, expected.update, f"movement, {what},"))
        for kind, found in moments_of(model, step.optimizer).items():
            outcomes.append(each("gradient", found, expected.moments[kind], GRADIENT, f"{kind}, {what},"))
    return worst(outcomes)


@check(
    "T", "trajectory", "are four steps, each on a batch in pieces of which the last is short, those of torch's AdamW?"
)
def trajectory(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG)
    step = side.step(model, micro_batch(side), learning_rate=rate, weight_decay=0.1, clip=CLIPS["clipped"])
    with small_chunks():
        losses, update = train(step, model, batches(seed, 4))
    expected = trained(seed, 4, CLIPS["clipped"])
    return worst(
        [
            *(
                near(f"loss of step {n}", a, b, TRAJECTORY)
                for n, (a, b) in enumerate(zip(losses, expected.losses, strict=True))
            ),
            movement(update, expected.update, "movement"),
        ]
    )


@check("G", "accumulation", "is the gradient of a batch in unequal pieces, one of them empty, that of the whole?")
def accumulation(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG)
    step = side.step(model, micro_batch=2)
    with small_chunks():
        value = step.gradients(*uneven(seed))
    wanted, expected = oracle.gradients(sharp(seed), uneven(seed), H)
    found = canonical_gradients(model)
    return worst([near("loss", value, wanted, LOSS), each("gradient", found, expected, GRADIENT)])


@check("G", "two ranks", "do two ranks, each with a share in pieces, step as one rank does with all of it?")
def two_ranks(side: Side, seed: int) -> Outcome:

    def rank(number: int, meeting: Meeting) -> list[Outcome]:
        return step_of_a_rank(side, seed, number, lambda model: InMemory(model, number, meeting))

    return worst(outcome for outcomes in together(rank) for outcome in outcomes)


def step_of_a_rank(
    side: Side, seed: int, number: int, exchange: Callable[[nn.Module], Any] | None = None
) -> list[Outcome]:
    """A step of one of two ranks on its share, against the oracle's step on the whole batch.

    Args:
        number: of the rank
        exchange: what the ranks talk by; None for that of the step itself
    """
    rows = [0, 2, 1, 4, 4, 3, 0, 0]  # four for each rank, in pieces of three and one, with unequal counts in all
    ids, targets = (part[rows] for part in uneven(seed))
    expected = oracle.Trained(sharp(seed), [(ids, targets)], H, learning_rate=rate, clip=CLIPS["clipped"])
    model = side.model(sharp(seed), CONFIG)
    step = side.step(model, micro_batch=3, learning_rate=rate, weight_decay=0.1, clip=CLIPS["clipped"])
    if exchange is not None:
        step.exchange = exchange(model)
    share = slice(4 * number, 4 * number + 4)
    (value,), update = train(step, model, [(ids[share], targets[share])])
    return [
        near(f"loss on rank {number}", value, expected.losses[0], LOSS),
        near(f"gradient norm on rank {number}", step.gradient_norm, expected.norms[0], GRADIENT),
        movement(update, expected.update, f"movement on rank {number}"),
        *(
            each("gradient", found, expected.moments[kind], GRADIENT, f"{kind} on rank {number}")
            for kind, found in moments_of(model, step.optimizer).items()
        ),
    ]


class Toy(nn.Module):
    """A matrix, which decays, a row, which does not, and a matrix that has no part in the loss."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("matrix", (6, 5)), ("row", (30,)), ("idle", (2, 2))):
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(0.1 * drawn))


def toy_gradients(seed: int) -> list[dict[str, Tensor]]:
    """For each of three steps, of sizes from 1e-10 to 1: around AdamW's eps of 1e-8, far above and far below."""
    generator = torch.Generator().manual_seed(seed + 1)
    sizes = torch.logspace(-10, 0, 30, dtype=torch.float64)
    drawn = torch.randn(3, 2, 30, generator=generator, dtype=torch.float64)
    return [{"matrix": (one[0] * sizes).view(6, 5), "row": one[1] * sizes} for one in drawn]


@check("O", "optimizer", "is AdamW torch's, entry by entry, for gradients as small as eps and far from it?")
def optimizer(side: Side, seed: int) -> Outcome:
    outcomes = []
    mine, theirs = Toy(seed), Toy(seed)
    ours = side.step(mine, weight_decay=0.1).optimizer
    ours.learning_rate = 1e-3
    groups = [
        {"params": [theirs.matrix, theirs.idle], "weight_decay": 0.1},
        {"params": [theirs.row], "weight_decay": 0.0},
    ]
    library = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for number, gradients in enumerate(toy_gradients(seed), start=1):
        before = {name: p.detach().clone() for name, p in theirs.named_parameters()}
        for model in (mine, theirs):
            for name, gradient in gradients.items():
                model.get_parameter(name).grad = gradient.clone()
        ours.step()
        library.step()
        idle = mine.idle.detach() - theirs.idle.detach()
        outcomes.append(count("movement of what has no gradient", 0, float(idle.abs().max())))
        for name in gradients:
            p = theirs.get_parameter(name)
            expected = p.detach() - before[name]
            off = (mine.get_parameter(name).detach() - p.detach()).abs()
            # of the size that any entry moves by: where a step of m_hat cancels, rounding is all there is
            error = float((off / expected.abs().clamp(min=1e-6)).max())
            outcomes.append(Outcome(error, 1e-9, f"movement of one entry of a {name}, step {number}"))
    return worst(outcomes)


@check("O", "schedule", "is the learning rate of every step what the formula says, from the first to past the last?")
def schedule(side: Side, seed: int) -> Outcome:
    peak = 1.0 + seed
    found = [learning_rate(s, peak=peak, warmup=4, total=12, floor=0.1 * peak) for s in range(16)]
    cosine = [0.1 + 0.45 * (1.0 + math.cos(math.pi * k / 8)) for k in range(8)]
    expected = [0.25, 0.5, 0.75, 1.0, *cosine, 0.1, 0.1, 0.1, 0.1]
    wrong = [abs(a / peak - b) for a, b in zip(found, expected, strict=True)]
    return Outcome(max(wrong), 1e-14, f"learning rate of step {wrong.index(max(wrong))}")
