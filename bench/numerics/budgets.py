"""The largest errors that pass, by quantity and precision.

An error is the relative L2 distance of a tensor from the float64 oracle. Two separately written GPT-2s agree to about
2e-15 (logits) and 9e-15 (gradients) in float64, and to about 6e-7 and 3e-6 in float32. The erf form of GELU is off by
1.6e-4, a LayerNorm eps of 1e-6 by 2.5e-5. The float64 budgets prove the same function; the others prove that a model
only rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.numerics.errors import Allowance, Measurement, Report


@dataclass(frozen=True)
class Budget:
    """Largest allowed error of each quantity; None if it is reported but not judged."""

    logits: float
    loss: float
    gradient: float
    trajectory: float  # each loss of the AdamW steps
    update: float | None  # p1 - p0 of each parameter over those steps

    def of(self, quantity: str) -> float | None:
        """The budget of a quantity, by its name in a `Measurement`."""
        value: float | None = getattr(self, quantity)
        return value

    def __call__(self, measurement: Measurement) -> float | None:
        """The largest error allowed for a measurement: a budget is an `Allowance`."""
        return self.of(measurement.quantity)


# Updates are not judged in float32: Adam divides by the gradient's size, so an entry whose gradient is only rounding
# moves as far as any other. The losses of the steps are judged instead.
BUDGETS: dict[str, Budget] = {
    "float64": Budget(logits=1e-12, loss=1e-12, gradient=1e-11, trajectory=1e-11, update=1e-9),
    "float32": Budget(logits=5e-6, loss=5e-6, gradient=1e-5, trajectory=3e-6, update=None),
}

# bfloat16 has no fixed budget: a model may have a multiple of plain code's error on the same task, up to a cap.
# Neighbouring bfloat16 numbers differ by 2^-8 to 2^-7 of their size; this is the smaller one.
BF16_ULP = 2.0**-8
BF16_FACTORS = {"logits": 2.0, "loss": 2.0, "gradient": 3.0}
BF16_CAPS = {"logits": 2e-2, "loss": 2e-2, "gradient": 5e-2, "trajectory": 1e-2}


def rounding_allowance(plain: Report, ulp: float = BF16_ULP) -> Allowance:
    """The allowance of bfloat16 code, from plain code's report on the same task; `ulp` for another type."""
    errors = {(m.quantity, m.name): m.error for m in plain.measurements}

    def allowed(measurement: Measurement) -> float | None:
        cap, factor = BF16_CAPS.get(measurement.quantity), BF16_FACTORS.get(measurement.quantity)
        if cap is None or factor is None:
            return cap
        return min(cap, factor * errors[measurement.quantity, measurement.name] + ulp)

    return allowed
