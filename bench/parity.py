"""How far apart two models are: logits, loss, every gradient, and n steps of training.

Both sides follow the protocol of this project (`model(ids)`, `model.loss(ids, targets)`, a canonical state dict) and
start from the same weights. One is the oracle, usually in float64; errors are relative to it. This module measures;
`bench.budgets` says what is allowed, and `assert_same` puts the two together for a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.budgets import BUDGETS, Budget
from reference.canonical import canonical_gradients
from reference.step import build_step

BuildStep = Callable[..., Callable[[Tensor, Tensor], Tensor]]

# Some gradients are zero in theory (the key bias always, q and k at T = 1) and rounding noise in practice. A tensor
# whose entries are this much smaller than the typical entry of all tensors is measured against that size instead.
# Adam moves every entry about equally far, and noise of 1e-16 by 1e-8 of that (it divides by eps = 1e-8 at least):
# an update that is smaller than the typical one is measured against the typical one.
NEGLIGIBLE = {"gradient": 1e-3, "update": 1.0}


@dataclass(frozen=True)
class Measurement:
    """One tensor of one side held against the same tensor of the oracle."""

    quantity: str  # logits, loss, gradient, trajectory or update
    name: str  # the tensor's canonical name, or the step's number
    error: float  # relative L2; infinite if either side has a NaN or an infinity
    largest: float  # largest absolute difference

    def over(self, budget: Budget) -> float:
        """error / budget: above 1 is a failure; 0 where the budget does not judge this quantity."""
        allowed = budget.of(self.quantity)
        if allowed is None or self.error == 0.0:
            return 0.0
        return self.error / allowed if allowed > 0.0 else math.inf


@dataclass
class Report:
    """Everything that was measured between two models, worst first within each quantity."""

    measurements: list[Measurement] = field(default_factory=list)
    top1: float = math.nan  # share of positions at which both sides rank the same token first

    def of(self, quantity: str) -> list[Measurement]:
        """The measurements of one quantity, largest error first."""
        return sorted((m for m in self.measurements if m.quantity == quantity), key=lambda m: -m.error)

    def worst(self, quantity: str) -> Measurement:
        """The largest error of one quantity; a ValueError if it was not measured."""
        found = self.of(quantity)
        if not found:
            raise ValueError(
                f"{quantity!r} was not measured; there are {sorted({m.quantity for m in self.measurements})}"
            )
        return found[0]

    def over(self, budget: Budget) -> float:
        """The largest error / budget of all."""
        return max(m.over(budget) for m in self.measurements)

    def failures(self, budget: Budget) -> list[Measurement]:
        """What is beyond its budget, furthest first."""
        return sorted((m for m in self.measurements if not m.over(budget) <= 1.0), key=lambda m: -m.over(budget))


def distance(actual: Tensor, expected: Tensor, scale: float | None = None) -> tuple[float, float]:
    """Relative L2 distance and largest absolute difference of two tensors, in float64 on the CPU.

    Args:
        actual, expected: the same shape, any device and precision; the same memory is an AssertionError, since a
            tensor compared with itself proves nothing
        scale: the size to divide by; the norm of `expected` unless given. A difference of zero is an error of zero
            even at scale zero.

    NaN or infinity on either side gives (inf, inf). Different shapes are a ValueError.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} against {tuple(expected.shape)}")
    assert actual.data_ptr() != expected.data_ptr() or actual.numel() == 0, "a tensor is compared with itself"
    a, b = (t.detach().to(device="cpu", dtype=torch.float64) for t in (actual, expected))
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf, math.inf
    difference = a - b
    norm = float(torch.linalg.vector_norm(difference))
    if norm == 0.0:
        return 0.0, 0.0
    size = float(torch.linalg.vector_norm(b)) if scale is None else scale
    return (norm / size if size > 0.0 else math.inf), float(difference.abs().max())


def measure_all(quantity: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Measurement]:
    """Measure every tensor of two canonical dicts, which must have the same names (a ValueError otherwise)."""
    if actual.keys() != expected.keys():
        raise ValueError(f"{quantity}: {sorted(actual.keys() ^ expected.keys())} are on one side only")
    square = sum(float(t.double().square().sum()) for t in expected.values())
    count = sum(t.numel() for t in expected.values())
    typical = math.sqrt(square / count)  # root mean square of all entries
    for name, tensor in expected.items():
        own = float(torch.linalg.vector_norm(tensor.double()))
        scale = max(own, NEGLIGIBLE[quantity] * typical * math.sqrt(tensor.numel()))
        if name.endswith("k_proj.bias"):
            scale = max(own, typical * math.sqrt(tensor.numel()))  # zero in theory: an absolute bound
        yield Measurement(quantity, name, *distance(actual[name], tensor, scale))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put parameters, gradients and mode of a model back as they were."""
    parameters = list(model.parameters())
    kept = [p.detach().clone() for p in parameters]
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = None
        model.train(training)


def gradients(model: Any, ids: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and canonical gradients of one batch; the model is left without gradients."""
    model.zero_grad(set_to_none=True)
    loss = model.loss(ids, targets)
    loss.backward()
    found = canonical_gradients(model)
    model.zero_grad(set_to_none=True)
    return loss.detach(), found


def train(
    model: Any, build: BuildStep, batches: list[tuple[Tensor, Tensor]], **settings: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The losses of a training step for each batch, and by how much each canonical parameter moved."""
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    step = build(model, **settings)
    losses = [step(ids, targets) for ids, targets in batches]
    after = model.state_dict()
    return losses, {name: after[name].detach() - tensor for name, tensor in before.items()}


def check_same_weights(a: nn.Module, b: nn.Module) -> None:
    """Raise a ValueError unless both hold the same canonical weights, exactly."""
    left, right = a.state_dict(), b.state_dict()
    if left.keys() != right.keys():
        raise ValueError(
            f"the two models have different tensors: {sorted(left.keys() ^ right.keys())} on one side only"
        )
    for name, tensor in left.items():
        other = right[name]
        if tensor.shape != other.shape:
            raise ValueError(
                f"{name!r} has shape {tuple(tensor.shape)} in one model, {tuple(other.shape)} in the other"
            )
        if not torch.equal(tensor.double().cpu(), other.double().cpu()):
            raise ValueError(f"{name!r} differs between the two models: load the same state dict into both first")


def compare(
    candidate: Any,
    oracle: Any,
    ids: Tensor,
    targets: Tensor,
    *,
    steps: int = 20,
    build: BuildStep = build_step,
    oracle_build: BuildStep = build_step,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.1,
) -> Report:
    """Hold a model against an oracle that has the same weights.

    Args:
        candidate, oracle: models of the protocol, each in its own precision and on its own device; both are put in
            eval mode while they are compared and are left as they were
        ids, targets: (B, T) int64; -1 is ignored
        steps: number of AdamW steps to take on both sides, each on the batch rolled one further along B and T;
            0 leaves the trajectory out
        build, oracle_build: `build_step` of each side
        learning_rate, weight_decay: of those steps

    Raises ValueError if the two do not hold the same weights.
    """
    check_same_weights(candidate, oracle)
    sides = (candidate, oracle)
    batches = [tuple(t.roll((s, s), (0, 1)) for t in (ids, targets)) for s in range(steps)]
    outputs, losses, found, runs = [], [], [], []
    for model, builder in zip(sides, (build, oracle_build), strict=True):
        device = next(model.parameters()).device
        with untouched(model):
            model.eval()
            with torch.no_grad():
                outputs.append(model(ids.to(device)).clone())
            loss, gradient = gradients(model, ids.to(device), targets.to(device))
            losses.append(loss)
            found.append(gradient)
            if steps:
                moved = [(i.to(device), t.to(device)) for i, t in batches]
                runs.append(train(model, builder, moved, learning_rate=learning_rate, weight_decay=weight_decay))
    report = Report(top1=float((outputs[0].cpu().argmax(-1) == outputs[1].cpu().argmax(-1)).double().mean()))
    report.measurements.append(Measurement("logits", "logits", *distance(outputs[0], outputs[1])))
    report.measurements.append(Measurement("loss", "loss", *distance(losses[0], losses[1])))
    report.measurements.extend(measure_all("gradient", found[0], found[1]))
    if steps:
        (left, left_update), (right, right_update) = runs
        # a loss that has fallen to almost nothing is held against what the losses were, not against nothing
        typical = math.sqrt(sum(float(y) ** 2 for y in right) / steps)
        for number, (x, y) in enumerate(zip(left, right, strict=True)):
            report.measurements.append(Measurement("trajectory", f"step {number}", *distance(x, y, typical)))
        report.measurements.extend(measure_all("update", left_update, right_update))
    return report


def assert_same(
    candidate: Any,
    oracle: Any,
    ids: Tensor,
    targets: Tensor,
    budget: Budget | str = "float64",
    **options: Any,
) -> Report:
    """`compare`, and an AssertionError that lists what is beyond its budget; returns the report otherwise.

    Args:
        budget: a `Budget`, or the name of one in `bench.budgets.BUDGETS`
        options: see `compare`
    """
    allowed = BUDGETS[budget] if isinstance(budget, str) else budget
    report = compare(candidate, oracle, ids, targets, **options)
    failures = report.failures(allowed)
    if failures:
        lines = [
            f"  {m.quantity} {m.name}: error {m.error:.2e}, allowed {allowed.of(m.quantity):.0e}, "
            f"{m.over(allowed):.3g} times the budget, largest difference {m.largest:.2e}"
            for m in failures[:10]
        ]
        more = [f"  and {len(failures) - 10} more"] if len(failures) > 10 else []
        first = f"{len(failures)} of {len(report.measurements)} measurements are beyond their budget:"
        raise AssertionError("\n".join([first, *lines, *more]))
    return report
