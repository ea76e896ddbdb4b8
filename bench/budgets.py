"""How far from the oracle a model may be, by what it claims and the precision it runs in.

An error is the relative L2 distance of a tensor from the float64 oracle. Two separately written GPT-2s agree to about
2e-15 (logits) and 9e-15 (gradients) in float64, and to about 6e-7 and 3e-6 in float32; a tanh/erf mix-up in GELU is
1.6e-4 and a LayerNorm eps of 1e-6 is 2.5e-5. The float64 budgets prove the same function, the others that it only
rounds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Largest allowed error of each quantity; None where the quantity is reported but not judged."""

    logits: float
    loss: float
    gradient: float
    trajectory: float  # each loss of a number of AdamW steps
    update: float | None  # p1 - p0 of each parameter over those steps

    def of(self, quantity: str) -> float | None:
        """The budget of a quantity by its name in a `bench.parity.Measurement`."""
        value: float | None = getattr(self, quantity)
        return value


# Not judged in float32: Adam divides by the gradient's size, so a component that is nothing but rounding moves as far
# as any other. The losses of the trajectory show what matters of it.
BUDGETS: dict[str, Budget] = {
    "float64": Budget(logits=1e-12, loss=1e-12, gradient=1e-11, trajectory=1e-11, update=1e-9),
    "float32": Budget(logits=5e-6, loss=5e-6, gradient=1e-5, trajectory=3e-6, update=None),
}
