"""The result of testing a candidate."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.candidate.diagnose import Cause, Where
from bench.candidate.lifted import Lowered
from bench.candidate.locate import FirstDifference
from bench.candidate.reordered import LARGEST, MULTIPLE
from bench.numerics.budgets import BUDGETS
from bench.numerics.errors import Allowance, Measurement, Report
from reference.config import GPTConfig

SHARP = "logits, sharper attention"  # q and k multiplied by SHARPNESS
TRAIN = "logits in train mode"
DROPPED = "logits in eval mode, dropout 0.1"
EXPECTED = "mean loss with dropout 0.1"
SPREAD = "mean square distance from eval mode with dropout 0.1"  # of the logits
# of the difference of two means over 32 calls, in its standard errors: Student's t with 62 degrees of freedom is beyond
# it once in a million
STANDARD_ERRORS = 5.5
SHARP_LENIENCY = 10.0  # such scores multiply rounding: a factor on the budget


@dataclass(frozen=True)
class Unjudged:
    """A probe in which the candidate raised."""

    name: str
    why: str  # in one line
    error: BaseException


@dataclass(frozen=True)
class Lowering:
    """What a candidate computes with fewer bits than float64, although its parameters have them."""

    places: list[Lowered]  # in order of execution
    why: str  # how it shows; "" if only by its results
    first: FirstDifference | None  # the first activation that is rounded
    strict: Report  # of the candidate in float64 throughout
    only: bool  # whether it is then the same function

    @property
    def place(self) -> str:
        """The first place, and the number of others."""
        if not self.places:
            return self.why.removeprefix("it computes in ") or "a place that is not known"
        others = len({place.place or place.what for place in self.places}) - 1
        return str(self.places[0]) + (f", and in {others} other places" if others else "")

    def cause(self) -> Cause:
        """The cause, if its rounding alone is too much."""
        error = self.strict.worst("logits").error
        return Cause(
            f"it computes in {self.place}",
            "compute it in the precision of the weights, or judge it as it is by --precision as-built",
            f"with float64 in its place it is the same function: logits to {error:.1e}",
        )


@dataclass(frozen=True)
class Depth:
    """An activation of the reference and the candidate's nearest tensor."""

    name: str  # as in traced_gpt.py
    title: str
    error: float | None  # relative L2; None if the candidate computes no tensor of this shape there
    state: str  # agrees, hidden (right, inside a fused call), differs, first (the first that differs)


@dataclass
class Examination:
    """The result of testing a candidate."""

    name: str
    layout: str
    config: GPTConfig
    batch: int
    time: int
    steps: int
    device: str
    precision: str  # of the test
    report: Report
    notes: list[str] = field(default_factory=list)
    allowance: Allowance | None = None  # of the rounding rule; None for the budgets of the precision
    plain: Report | None = None  # of plain code in the same precision, for the rounding rule
    where: Where | None = None
    causes: list[Cause] = field(default_factory=list)
    given: str = ""  # the precision of its parameters in the test
    converted: list[str] = field(default_factory=list)  # those when it was built, if others
    lowering: Lowering | None = None
    scales: dict[str, float] = field(default_factory=dict)  # measured rounding, by probe or quantity; see reordered.py
    remarks: list[str] = field(default_factory=list)  # on its modes; shown below the notes
    judges_start: bool = False  # whether initial weights that are not GPT-2's are a difference
    unjudged: list[Unjudged] = field(default_factory=list)
    depth: list[Depth] = field(default_factory=list)  # in order of execution; empty if it was not asked for
    unseen: list[str] = field(default_factory=list)  # known mistakes that this precision cannot show

    def allowed(self, measurement: Measurement) -> float | None:
        """The budget of a measurement."""
        if measurement.quantity == "expected":
            return STANDARD_ERRORS
        if self.allowance is not None:
            return self.allowance(measurement)
        limit = BUDGETS[self.precision].of(measurement.quantity)
        if measurement.name == SHARP and self.precision == "float32":
            return None  # such scores leave few correct digits
        if limit is None:
            return None
        scale = self.scales.get(measurement.name if measurement.quantity == "logits" else measurement.quantity, 0.0)
        own = limit * SHARP_LENIENCY if measurement.name == SHARP else limit
        return max(own, min(MULTIPLE * scale, LARGEST)) if self.precision == "float64" else own

    def leniency(self, name: str) -> float:
        """The factor on the budget of a probe's logits."""
        own = self.allowed(Measurement("logits", name, 0.0, 0.0))
        return 1.0 if own is None else own / BUDGETS[self.precision].logits

    @property
    def failures(self) -> list[Measurement]:
        """Measurements beyond their budget, largest error / budget first."""
        return self.report.failures(self.allowed)

    @property
    def same(self) -> bool:
        """Whether everything is within its budget."""
        return not self.failures

    @property
    def initial(self) -> list[str]:
        """The remarks on initial weights that are not GPT-2's."""
        return [line for line in self.remarks if line.startswith("initial ")]

    @property
    def same_start(self) -> bool:
        """Whether the initial weights are GPT-2's, if that is asked."""
        return not (self.judges_start and self.initial)

    @property
    def only_rounds(self) -> bool:
        """Whether it is the same function with float64 in place of the lower precisions that it asks for."""
        return self.lowering is not None and self.lowering.only

    def failed(self, quantity: str) -> bool:
        """Whether a measurement of this quantity is beyond its budget."""
        return any(m.quantity == quantity for m in self.failures)
