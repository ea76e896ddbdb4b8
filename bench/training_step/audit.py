"""Is a user's training step the reference's? If not: which mistakes reproduce it?

Each step is judged by itself: the reference step starts from the weights that the user's step started from. So an error
does not grow from step to step, and hundreds of variants can be tried on one record of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.numerics.budgets import BUDGETS
from bench.training_step.hyperparameters import Hyperparameters
from bench.training_step.known_mistakes import possible
from bench.training_step.known_schedules import name_of
from bench.training_step.ranks import record_ranks
from bench.training_step.record import EQUAL, UNEQUAL, Recorded, initial, record
from bench.training_step.variant import Arithmetic, Masks, Variant
from bench.user_code.mistake import Mistake, combined, singles_and_pairs

UPDATE = BUDGETS["float64"].update
assert UPDATE is not None
BUDGET: float = UPDATE  # relative L2 distance of a step's change of the weights
SMALL = 1e-6  # of the typical change: below it a tensor's error is relative to that, as its gradient is only rounding

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Fit:
    """How well a variant explains a record."""

    errors: list[float]  # by step, with the learning rate that fits best; up to the first beyond the budget
    rates: list[float]  # by step, that learning rate

    @property
    def explains(self) -> bool:
        """Whether every step is within the budget."""
        return all(error <= BUDGET for error in self.errors)


@dataclass(frozen=True)
class Explanation:
    """Mistakes that reproduce a step, and what its learning rates are."""

    mistakes: tuple[Mistake, ...]
    schedule: str  # "" if right, else what it is
    error: float
    rates: list[float]
    frozen: tuple[str, ...] = ()  # tensors that no step changed


@dataclass
class Run:
    """One run of the user's step, judged."""

    title: str
    recorded: Recorded
    errors: list[float]  # by step, of the change of all weights
    worst: str  # tensor with the largest error in the first wrong step, else in the last
    never_moved: list[str]  # tensors that no step changed
    trained: Tensor  # (n,) 0 for weights of such tensors, else 1; all 1 if no step changed any
    explanations: list[Explanation] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether every step is within the budget, and all ranks have the same weights."""
        return all(error <= BUDGET for error in self.errors) and self.first_apart is None

    @property
    def first_apart(self) -> int | None:
        """The first step after which ranks have different weights."""
        apart = self.recorded.apart or []
        return next((step for step, distance in enumerate(apart) if not distance <= BUDGET), None)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tensors that no step changed, if others were."""
        return tuple(self.never_moved) if bool((self.trained == 0.0).any()) else ()

    @property
    def first_wrong(self) -> int | None:
        """The first step beyond the budget."""
        return next((step for step, error in enumerate(self.errors) if not error <= BUDGET), None)


@dataclass
class Audit:
    """The result of testing a training step."""

    name: str
    given: Hyperparameters
    runs: list[Run]
    notes: list[str]
    ranks: int = 1

    @property
    def same(self) -> bool:
        """Whether every run is the reference step."""
        return all(run.same for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, for --json."""
        return {
            "kind": "training_step",
            "step": self.name,
            "same": self.same,
            "budget": BUDGET,
            "ranks": self.ranks,
            "runs": [
                {
                    "micro_batches": run.title,
                    "same": run.same,
                    "errors": run.errors,
                    "ranks_apart": run.recorded.apart,
                    "first_wrong": run.first_wrong,
                    "worst": run.worst,
                    "never_updated": run.never_moved,
                    "causes": [
                        {
                            "mistakes": [mistake.what for mistake in one.mistakes],
                            "schedule": one.schedule,
                            "error": one.error,
                            "learning_rates": one.rates,
                        }
                        for one in run.explanations
                    ],
                }
                for run in self.runs
            ],
            "notes": self.notes,
        }


def audit(
    build_step: Callable[..., Any],
    *,
    name: str = "the step",
    given: Hyperparameters | None = None,
    unequal: bool = True,
    ranks: int = 1,
    seed: int = 0,
    tell: Tell = lambda what: None,
) -> Audit:
    """Test a training step against the reference, over 20 steps of three micro-batches.

    Args:
        build_step: see `bench.training_step.record.record`
        name: with several ranks, FILE.py:FUNCTION of `build_step`
        given: passed to it, if it takes two arguments
        unequal: whether micro-batches of different sizes are tried too
        ranks: number of processes, each with micro-batches of its own, in all the same number of targets
        seed: of weights and tokens

    Raises ValueError, one line, for a step that cannot be run.
    """
    given = given or Hyperparameters()
    masks = Masks.of({n: p.shape for n, p in initial(seed).named_parameters()})
    runs, notes = [], []
    sizes = {"equal": EQUAL, **({"unequal": UNEQUAL} if unequal else {})}
    together: list[Recorded] = []
    if ranks > 1:
        tell(f"20 steps of {ranks} processes")
        together = record_ranks(name, given, list(sizes.values()), seed, ranks)
    for number, (title, shapes) in enumerate(sizes.items()):
        if ranks == 1:
            tell(f"20 steps, micro-batches of {title} size")
        recorded = together[number] if ranks > 1 else record(build_step, given, shapes, seed)
        run = judged(title, recorded, given, masks)
        runs.append(run)
        broken = next((n for n, w in enumerate(recorded.weights) if not bool(w.isfinite().all())), None)
        if broken is not None:
            notes.append(f"weights are not finite after step {broken - 1}: no mistake was looked for")
        elif not run.same:
            tell("known mistakes")
            run.explanations = list(explanations(run, given, masks, runs[0].explanations))
        if run.same and title == "equal":
            notes += remarks(recorded)
        if len(recorded.counts) == ranks:
            notes.append("the step takes one batch: accumulation of gradients was not tested")
            break
    if len(runs) > 1 and not any(run.same for run in runs):
        # mistakes that show only where sizes differ change nothing in the first run: one cause for both
        later = (explanation(one.mistakes, runs[0], given, masks) for one in runs[-1].explanations)
        runs[0].explanations += [one for one in later if one is not None and one not in runs[0].explanations]
    return Audit(name, given, runs, notes, ranks)


def judged(title: str, recorded: Recorded, given: Hyperparameters, masks: Masks) -> Run:
    """A run's error in each step."""
    names = masks.names
    arithmetic, errors, worst = Arithmetic(Variant(), given, masks), [], ""
    moved = torch.zeros(len(names), dtype=torch.bool)
    for step in range(len(recorded.gradients)):
        change = recorded.weights[step + 1] - recorded.weights[step]
        expected = sum_of(arithmetic, recorded, step, given.rate(step))
        errors.append(distance(change, expected))
        pairs = zip(torch.split(change, masks.sizes), torch.split(expected, masks.sizes), strict=True)
        typical = float(torch.linalg.vector_norm(expected)) / math.sqrt(expected.numel())
        own = [distance(a, b, SMALL * typical * math.sqrt(a.numel())) for a, b in pairs]
        if all(error <= BUDGET for error in errors[:-1]):
            worst = names[max(range(len(own)), key=lambda n: own[n] if own[n] == own[n] else math.inf)]
        moved |= torch.tensor([bool(part.any()) for part in torch.split(change, masks.sizes)])
    flags = torch.repeat_interleave(moved.double(), torch.tensor(masks.sizes))
    trained = flags if bool(moved.any()) else torch.ones_like(flags)
    never_moved = [n for n, seen in zip(names, moved, strict=True) if not seen]
    return Run(title, recorded, errors, worst, never_moved, trained)


def sum_of(arithmetic: Arithmetic, recorded: Recorded, step: int, rate: float) -> Tensor:
    """The change of the weights by a variant in its next step."""
    gradients = recorded.gradients[step]
    constant, proportional = arithmetic.change(recorded.weights[step], gradients, recorded.counts, rate, recorded.ranks)
    return constant + proportional


def distance(actual: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """Relative L2 distance; infinite if not finite."""
    norm = max(float(torch.linalg.vector_norm(expected)), least)
    error = float(torch.linalg.vector_norm(actual - expected))
    if not math.isfinite(error):
        return math.inf
    return error / norm if norm else (0.0 if error == 0.0 else math.inf)


def fit(variant: Variant, recorded: Recorded, given: Hyperparameters, masks: Masks, trained: Tensor) -> Fit:
    """Fit a learning rate to each step of a variant; stops at the first step that it does not explain.

    Args:
        trained: (n,) 1 for weights that the user's step changes, else 0
    """
    arithmetic, errors, rates = Arithmetic(variant, given, masks, trained), [], []
    for step in range(len(recorded.gradients)):
        rate = given.rate(step)
        constant, proportional = arithmetic.change(
            recorded.weights[step], recorded.gradients[step], recorded.counts, rate, recorded.ranks
        )
        change = recorded.weights[step + 1] - recorded.weights[step]
        rest, square = change - constant, float(proportional @ proportional)
        factor = float(rest @ proportional) / square if square > 0.0 else 0.0
        rates.append(factor * rate)
        nothing = not bool(change.any()) and not bool(constant.any())
        errors.append(0.0 if nothing else distance(change, constant + factor * proportional))
        if not errors[-1] <= BUDGET:
            break
    return Fit(errors, rates)


def explanations(run: Run, given: Hyperparameters, masks: Masks, known: Sequence[Explanation]) -> Iterator[Explanation]:
    """The fewest mistakes that reproduce every step: none but the schedule, one, or two at once.

    Args:
        known: explanations of another run of this step, tried first
    """
    likely = singles_and_pairs(possible(run.recorded.ranks))
    tried = dict.fromkeys([(), *(one.mistakes for one in known), *likely])
    fewest: int | None = None
    for mistakes in tried:
        if fewest is not None and len(mistakes) > fewest:
            return
        found = explanation(mistakes, run, given, masks)
        if found is not None:
            fewest = len(mistakes)
            yield found


def explanation(mistakes: tuple[Mistake, ...], run: Run, given: Hyperparameters, masks: Masks) -> Explanation | None:
    """Test whether mistakes reproduce every step of a run; None if they do not."""
    found = fit(combined(Variant(), mistakes), run.recorded, given, masks, run.trained)
    if not found.explains:
        return None
    schedule = name_of(found.rates, given)
    if schedule is None:
        schedule = "the learning rates are not those of the schedule"
    elif not mistakes and not schedule and not run.frozen:
        return None  # within the budget only with a fitted rate
    return Explanation(mistakes, schedule, max(found.errors), found.rates, run.frozen)


def remarks(recorded: Recorded) -> list[str]:
    """What the returned loss is, where it is not the mean over all targets: it moves no weight."""
    if any(loss is None for loss in recorded.losses):
        return ["the step returns no loss (a scalar tensor): it was not tested"]
    found = torch.stack([loss for loss in recorded.losses if loss is not None])
    number = len(recorded.counts) // recorded.ranks
    all_means = torch.tensor(recorded.means, dtype=torch.float64)  # (steps, micro-batches)
    means, counts = all_means[:, :number], torch.tensor(recorded.counts[:number], dtype=torch.float64)
    if recorded.ranks > 1 and torch.allclose(found, all_means.mean(1), rtol=1e-9, atol=0.0):
        return []
    known = {
        "": means @ counts / counts.sum(),
        "the last micro-batch's, not the mean of all": means[:, -1],
        "the last micro-batch's, divided by the number of micro-batches": means[:, -1] / number,
        "the sum over micro-batches, not their mean": means.sum(1),
        "the mean, divided once more by the number of micro-batches": means.mean(1) / number,
    }
    for words, wanted in known.items():
        if torch.allclose(found, wanted, rtol=1e-9, atol=0.0):
            return [f"the returned loss is {words}"] if words else []
    return ["the returned loss is not the mean over all targets before the update"]
