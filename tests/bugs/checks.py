"""A check: a question about a model or training code, answered by an error and its budget.

Each check is a function (side, seed) -> Outcome. Those of one kind are in one file:

    checks_of_models.py     logits, causality, gradients, loss, dropout, initialisation, conversion
    checks_of_training.py   optimizer, one step, trajectory, accumulation, two ranks, schedule
    checks_of_text.py       cache, sampling, generated tokens
    checks_of_runs.py       data, evaluation, resume, checkpoint
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.parity import distance, measure_all
from reference import GPTConfig

if TYPE_CHECKING:
    from tests.bugs.sides import Side

# Three heads of width 4: with one head, or as many heads as a head is wide, some mistakes do not show.
CONFIG = GPTConfig(block_size=16, vocab_size=31, n_layer=2, n_head=3, n_embd=12)
H = CONFIG.n_head

# Budgets of float64, as in bench/numerics/budgets.py.
LOGITS, LOSS, GRADIENT, TRAJECTORY, UPDATE = 1e-12, 1e-12, 1e-11, 1e-11, 1e-9


@dataclass(frozen=True)
class Outcome:
    """The result of a check: its worst measurement."""

    error: float
    budget: float  # 0 if nothing may differ
    what: str  # the measured quantity

    @property
    def over(self) -> float:
        """error / budget: above 1 the check fails; infinite for an error with budget 0."""
        if math.isnan(self.error):
            return math.inf
        if self.error == 0.0:
            return 0.0
        return self.error / self.budget if self.budget > 0.0 else math.inf

    def __str__(self) -> str:
        return f"{self.what}: error {self.error:.2e}, allowed {self.budget:.0e}, {self.over:.3g} times"

    @property
    def fails(self) -> bool:
        """Whether the check fails."""
        return not self.over <= 1.0


@dataclass(frozen=True)
class Check:
    """A question with a name."""

    letter: str  # of the kind: F, C, G, O, T, S, D, R, I or E, as in docs/bugs.md
    name: str
    asks: str  # the question in a line
    run: Callable[[Side, int], Outcome]

    def __call__(self, side: Side, seed: int = 0) -> Outcome:
        """The answer for one side; values and shapes that cannot be, on the way, are a failure without measure."""
        try:
            return self.run(side, seed)
        except (ValueError, IndexError, RuntimeError) as error:
            return Outcome(math.inf, 0.0, f"{type(error).__name__}: {str(error).splitlines()[0]}")


CHECKS: dict[str, Check] = {}


def check(letter: str, name: str, asks: str) -> Callable[[Callable[[Side, int], Outcome]], Check]:
    """Make a check of a function."""

    def made(run: Callable[[Side, int], Outcome]) -> Check:
        assert name not in CHECKS, name
        CHECKS[name] = Check(letter, name, asks, run)
        return CHECKS[name]

    return made


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The one that is furthest beyond its budget."""
    return max(outcomes, key=lambda outcome: (outcome.over, outcome.error))


def near(what: str, actual: Tensor, expected: Tensor, budget: float) -> Outcome:
    """The relative L2 distance of two tensors."""
    if actual.shape != expected.shape:
        return Outcome(math.inf, budget, f"{what}: of shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    return Outcome(distance(actual, expected)[0], budget, what)


def each(
    quantity: str, actual: dict[str, Tensor], expected: dict[str, Tensor], budget: float, what: str = ""
) -> Outcome:
    """The largest distance among tensors of the same names, as `bench.parity` measures gradients or updates."""
    found = measure_all(quantity, actual, expected)
    return worst(Outcome(m.error, budget, f"{what or quantity} of {m.name}") for m in found)


def count(what: str, wrong: int, error: float | None = None) -> Outcome:
    """Things that may not be wrong at all."""
    return Outcome(float(wrong) if error is None else error, 0.0, what)


@cache
def sharp(seed: int) -> dict[str, Tensor]:
    """Weights of which none is zero or one, in float64; not to be changed."""
    return sharp_state_dict(CONFIG, seed)


@cache
def loud(seed: int) -> dict[str, Tensor]:
    """As sharp, with scores of some ten thousands, which a finite mask no longer hides."""
    return {name: 100 * t if "q_proj" in name or "k_proj" in name else t for name, t in sharp(seed).items()}


@cache
def batch(seed: int, B: int = 3, T: int = 13) -> tuple[Tensor, Tensor]:
    """Random ids and targets, of which a fifth does not count; not to be changed."""
    return random_batch(CONFIG, B, T, seed)


def uneven(seed: int) -> tuple[Tensor, Tensor]:
    """Five rows with unequal numbers of targets that count: all, a few, none in the third and fourth, some."""
    ids, targets = (t.clone() for t in batch(seed, 5, 11))
    targets[1, 2:] = -1
    targets[2:4] = -1
    targets[4, :3] = torch.randint(CONFIG.vocab_size, (3,), generator=torch.Generator().manual_seed(seed))
    targets[0, 0] = targets[1, 0] = 3
    return ids, targets
