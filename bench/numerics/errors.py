"""One tensor held against the oracle's: relative distances, and all those of two models in a report.

This module measures. What is allowed is said by a function from a `Measurement` to the largest error that passes, such
as a `Budget` of `bench.numerics.tolerances`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Some gradients are zero in theory (the key bias always, q and k at T = 1) and rounding noise in practice. A tensor
# whose entries are this much smaller than the typical entry of all tensors is measured against that size instead.
# Adam moves every entry about equally far, and noise of 1e-16 by 1e-8 of that (it divides by eps = 1e-8 at least):
# an update that is smaller than the typical one is measured against the typical one.
NEGLIGIBLE = {"gradient": 1e-3, "update": 1.0}

PIECE = 2**16  # entries that are measured together


@dataclass(frozen=True)
class Measurement:
    """One tensor of one side held against the same tensor of the oracle."""

    quantity: str  # logits, loss, gradient, trajectory or update
    name: str  # the tensor's canonical name, or the step's number
    error: float  # relative L2; infinite if either side has a NaN or an infinity
    largest: float  # largest absolute difference

    def over(self, allowed: Allowance) -> float:
        """error / allowed error: above 1 is a failure; 0 where nothing is judged or nothing differs."""
        limit = allowed(self)
        if limit is None or self.error == 0.0:
            return 0.0
        return self.error / limit if limit > 0.0 else math.inf


Allowance = Callable[[Measurement], float | None]  # the largest error that passes; None: shown, not judged


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

    def over(self, allowed: Allowance) -> float:
        """The largest error / allowed error of all."""
        return max(m.over(allowed) for m in self.measurements)

    def failures(self, allowed: Allowance) -> list[Measurement]:
        """What is beyond its budget, furthest first; NaN is."""
        return sorted((m for m in self.measurements if not m.over(allowed) <= 1.0), key=lambda m: -m.over(allowed))


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
    if actual.numel() == 0:
        return 0.0, 0.0
    square, size_square, largest = 0.0, 0.0, 0.0
    # in pieces that stay in a cache: a table of 38 million numbers takes no copies of itself, and a sixth of the time
    for a, b in zip(pieces(actual), pieces(expected), strict=True):
        difference = a - b
        square += float(torch.dot(difference, difference))
        size_square += float(torch.dot(b, b))
        largest = max(largest, float(difference.abs_().max()))
    if not (math.isfinite(square) and math.isfinite(size_square)):
        return math.inf, math.inf
    if largest == 0.0:
        return 0.0, 0.0
    norm = max(math.sqrt(square), largest)  # squares of differences below 1e-162 are zero
    size = math.sqrt(size_square) if scale is None else scale
    return (norm / size if size > 0.0 else math.inf), largest


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's entries in float64 on the CPU, a piece after the other."""
    for piece in torch.split(tensor.detach().flatten(), PIECE):
        yield piece.to(device="cpu", dtype=torch.float64)


def square_sum(tensor: Tensor) -> float:
    """The sum of all squares, in float64."""
    return sum(float(torch.dot(piece, piece)) for piece in pieces(tensor))


def measure_all(quantity: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Measurement]:
    """Measure every tensor of two canonical dicts, which must have the same names (a ValueError otherwise)."""
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
