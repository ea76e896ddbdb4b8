"""Learning rates that schedules are known to give in place of the right ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.training_step.hyperparameters import Hyperparameters

NEAR = 1e-6  # relative: two learning rates are the same
Rate = Callable[[Hyperparameters, int], float]  # of a step


def stretched(given: Hyperparameters, step: int) -> float:
    """Warm-up by (s + 1) / (warmup + 1), as nanoGPT since 2024."""
    return given.learning_rate * (step + 1) / (given.warmup + 1) if step < given.warmup else given.rate(step)


def from_zero(given: Hyperparameters, step: int) -> float:
    """Warm-up by s / warmup: nothing moves in step 0."""
    return given.learning_rate * step / given.warmup if step < given.warmup else given.rate(step)


def linear(given: Hyperparameters, step: int) -> float:
    """A straight line after warm-up."""
    if not given.warmup <= step < given.total:
        return given.rate(step)
    share = (step - given.warmup) / (given.total - given.warmup)
    return given.learning_rate + share * (given.floor - given.learning_rate)


def to_zero(given: Hyperparameters, step: int) -> float:
    """The cosine ends at 0."""
    if step < given.warmup:
        return given.rate(step)
    return (given.rate(step) - given.floor) * given.learning_rate / (given.learning_rate - given.floor)


def ignoring_warmup(given: Hyperparameters, step: int) -> float:
    """The cosine counts from step 0, as if there were no warm-up."""
    if step < given.warmup:
        return given.rate(step)
    return Hyperparameters(given.learning_rate, given.floor, 0, given.total).rate(step)


SCHEDULES: dict[str, Rate] = {
    "the schedule is one step ahead": lambda given, step: given.rate(step + 1),
    "the schedule is one step behind; the first step is made twice": lambda given, step: given.rate(max(0, step - 1)),
    "the schedule is one step behind; step 0 has learning rate 0": lambda given, step: (
        given.rate(step - 1) if step else 0.0
    ),
    "step 0 has learning rate 0: warm-up by s / warmup": from_zero,
    "warm-up by (s + 1) / (warmup + 1)": stretched,
    "no warm-up": lambda given, step: given.learning_rate if step < given.warmup else given.rate(step),
    "the learning rate is constant": lambda given, step: given.learning_rate,
    "no decay of the learning rate after warm-up": lambda given, step: (
        given.rate(step) if step < given.warmup else given.learning_rate
    ),
    "the learning rate decays in a straight line, not by a cosine": linear,
    "the learning rate decays to 0, not to the floor": to_zero,
    "the cosine counts warm-up steps too": ignoring_warmup,
    "the schedule advances with every micro-batch": lambda given, step: given.rate(step * given.micro_batches),
    "the schedule advances with every micro-batch, before the update": lambda given, step: given.rate(
        (step + 1) * given.micro_batches - 1
    ),
}


def name_of(found: Sequence[float], given: Hyperparameters) -> str | None:
    """What a sequence of learning rates is; "" for the right one, None if unknown."""
    right = [given.rate(step) for step in range(len(found))]
    if near(found, right):
        return ""
    for name, rate in SCHEDULES.items():
        if near(found, [rate(given, step) for step in range(len(found))]):
            return name
    factors = [f / r for f, r in zip(found, right, strict=True)]
    if near(factors, [factors[0]] * len(factors)):
        return f"the learning rate is {factors[0]:.6g} times what was given"
    return None


def near(found: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether two sequences are the same."""
    return all(abs(f - w) <= NEAR * abs(w) for f, w in zip(found, wanted, strict=True))
