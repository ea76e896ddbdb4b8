"""Run a user's training step on the reference GPT and record its weights before and after each step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.numerics.inputs import sharp_state_dict
from bench.training_step.hyperparameters import Hyperparameters
from bench.user_code.refused import Refused, called
from bench.user_code.small_gpt import CONFIG, Batch, UserGPT
from reference.gpt import GPT

STEPS = 20
EQUAL = ((2, 16), (2, 16), (2, 16))  # (B, T) of a step's micro-batches
UNEQUAL = ((3, 16), (1, 16), (2, 9))
OF_RANK = 500_009  # added to the seed of a rank's micro-batches


@dataclass(frozen=True)
class Recorded:
    """One run: what a variant needs to be tried on it."""

    weights: list[Tensor]  # before each step and after the last, all parameters as a vector (n,)
    gradients: list[list[Tensor]]  # by step and micro-batch: of the mean loss at the weights before the step
    counts: list[int]  # targets by micro-batch
    losses: list[Tensor | None]  # returned by each step
    means: list[list[float]]  # by step and micro-batch: the mean loss
    ranks: int = 1  # processes; micro-batches stand rank after rank, all other fields are the first rank's
    apart: list[float] | None = None  # by step: the largest distance of another rank's weights, relative to the update


def initial(seed: int) -> UserGPT:
    """The model, in float64: no weight is 0, and gradient norms are on both sides of 1, the usual limit of clipping."""
    model = UserGPT(CONFIG).double()
    smaller = {"wte.weight": 0.15, "wpe.weight": 0.15, "ln_f.weight": 0.4, "ln_f.bias": 0.4}
    weights = sharp_state_dict(CONFIG, seed)
    model.load_state_dict({name: tensor * smaller.get(name, 1.0) for name, tensor in weights.items()})
    return model.train()


def micro_batches(shapes: Sequence[tuple[int, int]], seed: int, step: int, rank: int = 0) -> list[Batch]:
    """Random ids and targets, (B, T) each.

    Every fourth step has one token and one target alone, every fourth has few targets: their gradients are larger, so
    some steps are clipped and some are not, and single tensors and values pass the limit too.
    """
    generator = torch.Generator().manual_seed(1000 * seed + step + OF_RANK * rank)
    found = []
    for shape in shapes:
        ids = torch.randint(CONFIG.vocab_size, shape, generator=generator)
        targets = torch.randint(CONFIG.vocab_size, shape, generator=generator)
        if step % 4 == 1:
            ids, targets = torch.full_like(ids, step + STEPS * rank), torch.full_like(targets, step + 1)
        elif step % 4 == 3:
            targets = targets % 7
        found.append((ids, targets))
    return found


def takes(function: Callable[..., Any]) -> int | None:
    """The number of positional arguments that a function must be given; None if unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def record(
    build_step: Callable[..., Any],
    given: Hyperparameters,
    shapes: Sequence[tuple[int, int]],
    seed: int,
    rank: int = 0,
) -> Recorded:
    """Build and run a user's step.

    Args:
        build_step: (model) or (model, hyperparameters) -> step; step takes a list of micro-batches (ids, targets), or
            ids and targets of one batch
        shapes: (B, T) of the micro-batches
        rank: of this process, if there are several: its micro-batches are its own

    Raises Refused, one line, if it cannot be run.
    """
    model = initial(seed)
    arguments = (model, given) if takes(build_step) != 1 else (model,)
    step = run(lambda: build_step(*arguments), "build_step(model, hyperparameters)")
    if not callable(step):
        raise Refused(f"step: build_step returned {type(step).__name__}: return a function of a list of micro-batches")
    whole = takes(step) == 2
    if whole:  # no accumulation: one batch
        shapes = [(sum(B for B, _ in shapes), shapes[0][1])]
    ours = initial(seed)
    weights, gradients, losses, means = [vector(model)], [], [], []
    for number in range(STEPS):
        batches = micro_batches(shapes, seed, number, rank)
        found = [ours_at(ours, weights[-1], batch) for batch in batches]
        gradients.append([gradient for gradient, _ in found])
        means.append([loss for _, loss in found])
        loss = run(partial(step, *batches[0]) if whole else partial(step, batches), f"step {number}")
        losses.append(loss.detach().double() if isinstance(loss, Tensor) and loss.dim() == 0 else None)
        weights.append(vector(model))
    return Recorded(weights, gradients, [targets.numel() for _, targets in batches], losses, means)


def run(function: Callable[[], Any], what: str) -> Any:
    """Run a user's code; an exception becomes `Refused`, one line."""
    return called(function, what, "step")


def vector(model: GPT) -> Tensor:
    """A copy of all parameters as one vector of float64."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def ours_at(model: UserGPT, weights: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Gradient (n,) and mean loss of a micro-batch at some weights."""
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    model.zero_grad(set_to_none=True)
    loss = model.loss(*batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), float(loss.detach())
