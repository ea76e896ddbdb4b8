"""Measure the relative distance of a tensor from the oracle's, and collect those of two models in a report.

The largest error that passes is given by an `Allowance`, a function of a `Measurement`, such as a `Budget` of
`bench.numerics.budgets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Some gradients are zero in theory (the key bias always, q and k at T = 1) and rounding noise in practice. If a
# tensor's norm is below this fraction of the typical norm of all tensors, the error is relative to that size instead.
# Adam moves every entry about equally far, and an entry with a gradient of 1e-16 by 1e-8 of that, as it divides by
# eps = 1e-8 at least: the error of an update is relative to the typical update at least.
NEGLIGIBLE = {"gradient": 1e-3, "update": 1.0}

PIECE = 2**16  # entries that are measured at once


@dataclass(frozen=True)
class Measurement:
    """The error of one tensor of a model."""

    quantity: str  # logits, loss, gradient, trajectory or update
    name: str  # the tensor's canonical name, or the step's number
    error: float  # relative L2; infinite if either side has a NaN or an infinity
    largest: float  # largest absolute difference

    def over(self, allowed: Allowance) -> float:
        """error / allowed error: above 1 is a failure; 0 if the tensor is not judged or does not differ."""
        limit = allowed(self)
        if limit is None or self.error == 0.0:
            return 0.0
        return self.error / limit if limit > 0.0 else math.inf


Allowance = Callable[[Measurement], float | None]  # the largest error that passes; None: not judged


@dataclass
class Report:
    """All measurements between two models."""

    measurements: list[Measurement] = field(default_factory=list)
    top1: float = math.nan  # fraction of positions where both models rank the same token first

    def of(self, quantity: str) -> list[Measurement]:
        """The measurements of one quantity, largest error first."""
        return sorted((m for m in self.measurements if m.quantity == quantity), key=lambda m: -m.error)

    def worst(self, quantity: str) -> Measurement:
        """The largest error of one quantity. Raises ValueError if it was not measured."""
        found = self.of(quantity)
        if not found:
            raise ValueError(
                f"{quantity!r} was not measured; there are {sorted({m.quantity for m in self.measurements})}"
            )
        return found[0]

    def over(self, allowed: Allowance) -> float:
        """The largest error / allowed error."""
        return max(m.over(allowed) for m in self.measurements)

    def failures(self, allowed: Allowance) -> list[Measurement]:
        """Measurements beyond their budget, largest error / budget first. NaN is a failure."""
        return sorted((m for m in self.measurements if not m.over(allowed) <= 1.0), key=lambda m: -m.over(allowed))


def distance(actual: Tensor, expected: Tensor, scale: float | None = None) -> tuple[float, float]:
    """Relative L2 distance and largest absolute difference of two tensors, in float64 on the CPU.

    Args:
        actual, expected: of the same shape, any device and precision. The same memory is an AssertionError: a tensor
            compared with itself proves nothing
        scale: the divisor; default: the norm of `expected`. A difference of zero is an error of zero even at scale 0

    Returns (inf, inf) if either tensor has a NaN or an infinity. Raises ValueError for different shapes.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} against {tuple(expected.shape)}")
    assert actual.data_ptr() != expected.data_ptr() or actual.numel() == 0, "a tensor is compared with itself"
    if actual.numel() == 0:
        return 0.0, 0.0
    square, size_square, largest = 0.0, 0.0, 0.0
    # in pieces that fit the cache: for a table of 38 million entries without copies, and in a sixth of the time
    for a, b in zip(pieces(actual), pieces(expected), strict=True):
        difference = a - b
        square += float(torch.dot(difference, difference))
        size_square += float(torch.dot(b, b))
        largest = max(largest, float(difference.abs_().max()))
    if not (math.isfinite(square) and math.isfinite(size_square)):
        return math.inf, math.inf
    if largest == 0.0:
        return 0.0, 0.0
    norm = max(math.sqrt(square), largest)  # squares of differences below 1e-162 underflow to zero
    size = math.sqrt(size_square) if scale is None else scale
    return (norm / size if size > 0.0 else math.inf), largest


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's entries in float64 on the CPU, piece by piece."""
    for piece in torch.split(tensor.detach().flatten(), PIECE):
        yield piece.to(device="cpu", dtype=torch.float64)


def square_sum(tensor: Tensor) -> float:
    """The sum of squares, in float64."""
    return sum(float(torch.dot(piece, piece)) for piece in pieces(tensor))


def measure_all(quantity: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Measurement]:
    """Measure every tensor of two canonical dicts. Raises ValueError if their names differ."""
    if actual.keys() != expected.keys():
        raise ValueError(f"{quantity}: {sorted(actual.keys() ^ expected.keys())} are on one side only")
    squares = {name: square_sum(tensor) for name, tensor in expected.items()}
    count = sum(t.numel() for t in expected.values())
    typical = math.sqrt(sum(squares.values()) / count)  # root mean square of all entries
    for name, tensor in expected.items():
        own = math.sqrt(squares[name])
        scale = max(own, NEGLIGIBLE[quantity] * typical * math.sqrt(tensor.numel()))
        if name.endswith("k_proj.bias"):
            scale = max(own, typical * math.sqrt(tensor.numel()))  # zero in theory: an absolute bound
        yield Measurement(quantity, name, *distance(actual[name], tensor, scale))
