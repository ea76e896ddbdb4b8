"""Prove that each contender is the same function and only rounds, before any is timed.

The oracle is Hugging Face's GPT-2 with explicit attention, in float64. Every contender starts from its weights; the
logits, loss, every gradient and some AdamW steps are compared with the oracle's. The oracle's own code is a
contender too: in float64 its error must be 0, in float32 it shows how much peers round.

The budgets for float64 and float32 are in `bench.numerics.budgets`. bfloat16 has 8 significant bits, too few to
distinguish the exact GELU from the tanh one, so a bfloat16 contender takes two checks:

    function   in float32, without autocast, by the float32 budgets
    rounding   with autocast: at most twice (logits, loss) or three times (gradients, each tensor) the error of the
               reference under the same autocast, plus one unit in the last place, and at most a cap. The reference
               itself is judged by the caps.

The function check has "sharp" weights: random, none zero, with sharp attention. The rounding check has "typical" ones:
q and k of ordinary size and residual projections scaled by 1/sqrt(2 L), as in a new GPT-2. Sharp attention multiplies
rounding: with sharp weights at gpt2 size, even plain code has an error of 8 % in a bfloat16 gradient. That is more than
the cap, and a budget of twice that would prove little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.contenders import Weights, build_in, find
from bench.numerics.budgets import BUDGETS, rounding_allowance
from bench.numerics.errors import Allowance, Measurement, Report
from bench.numerics.inputs import random_batch, sharp_state_dict, typical_state_dict
from bench.numerics.outputs import ModelOutputs, collect_outputs, compare_outputs
from bench.workloads.workload import Workload
from reference.config import GPTConfig

ORACLE = "huggingface-eager"
ROUNDING_BASE = "reference"  # its bfloat16 error sets the budgets of the rounding check

# Of the AdamW steps. Adam's update has this size even if a gradient is pure rounding. At 1e-4, with sharp weights, five
# steps of correct code grow float32's rounding from 1e-7 to 3e-6; at 1e-5 it does not grow. The float64 check judges
# the update itself, which scales with this.
LEARNING_RATE = 1e-5

# AdamW steps of the rounding check: the second loss sees an update. The function check judges the optimizer itself.
ROUNDING_STEPS = 2

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One check of a proof."""

    question: str  # function or rounding
    precision: str
    weights: str  # sharp or typical
    shape: tuple[int, int]  # (B, T) of logits and loss: the shape that is timed
    gradient_shape: tuple[int, int]  # (B, T) of gradients and steps: the same, or smaller
    steps: int


@dataclass(frozen=True)
class Verdict:
    """The result of one contender in one check."""

    check: Check
    report: Report
    allowed: Allowance

    def over(self, measurement: Measurement) -> float:
        """error / budget: above 1 is a failure; 0 if there is no budget or no difference."""
        return measurement.over(self.allowed)

    def worst_over(self) -> float:
        """The largest error / budget."""
        return self.report.over(self.allowed)

    def failures(self) -> list[Measurement]:
        """Measurements over their budget, largest error / budget first; NaN counts as over."""
        return self.report.failures(self.allowed)

    def record(self) -> dict[str, Any]:
        """Plain values for a result file: `checks` in bench/suite/result_file.py."""

        def plain(measurement: Measurement) -> dict[str, Any]:
            return {**asdict(measurement), "allowed": self.allowed(measurement)}

        worst: dict[str, dict[str, Any]] = {}
        # the largest error / budget first; without budgets, the largest error
        for m in sorted(self.report.measurements, key=lambda m: (-self.over(m), -m.error)):
            worst.setdefault(m.quantity, plain(m))
        return {
            **asdict(self.check),
            "oracle": f"{ORACLE} in float64",
            "top1": self.report.top1,
            "over": self.worst_over(),
            "worst": worst,
            "failures": [plain(m) for m in self.failures()],
        }


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Inside, this thread and threads that it starts flush float32 denormals (below 1.2e-38) to zero, if the CPU can.

    Sharp attention has many denormal probabilities, and a CPU computes them a hundred times slower: at gpt2's size a
    training step of the readable model takes 7 s with them, 3 s without. No proof measures values that small: its
    budgets are 1e-6 of a tensor's norm. Enter this before torch computes in parallel: its threads keep the mode they
    started with.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def checks_of(workload: Workload, precision: str, steps: int | None = None, rounding: bool = False) -> list[Check]:
    """The checks of a precision.

    Args:
        rounding: whether a contender computes in bfloat16 even if the precision is float32
        steps: number of AdamW steps; None for as many as the size allows, at most 20; 0 for none
    """
    shape, small = (workload.batch, workload.time), workload.proof_shape()
    steps = workload.proof_steps() if steps is None else steps
    if precision == "bfloat16" or (precision == "float32" and rounding):
        return [
            Check("function", "float32", "sharp", shape, small, steps),
            Check("rounding", "bfloat16", "typical", shape, small, min(steps, ROUNDING_STEPS)),
        ]
    return [Check("function", precision, "sharp", shape, small, steps)]


def weights_of(checks: Sequence[Check], config: GPTConfig, seed: int) -> Iterator[tuple[Check, Weights]]:
    """Yield each check with its weights, in float32.

    The next check overwrites the weights of this one: use them first.
    """
    sharp = None
    for check in checks:
        if check.weights == "sharp":
            sharp = sharp_state_dict(config, seed, torch.float32)
            yield check, sharp
        else:
            yield check, typical_state_dict(config, seed, sharp)
            sharp = None  # overwritten by the typical ones


def prove(
    check: Check,
    config: GPTConfig,
    weights: Weights,
    names: Sequence[str],
    device: torch.device,
    seed: int,
    tell: Tell,
) -> Iterator[tuple[str, Verdict]]:
    """Check contenders one at a time, so that only one is in memory; yields each verdict when it is known.

    Args:
        weights: from `weights_of`
        names: contenders, in order
        device: of the contenders. The oracle runs there too if it is a CUDA device, else on the CPU, because not
            every accelerator has float64.
        seed: of the batches
        tell: called with a line for each step
    """
    batch = random_batch(config, *check.shape, seed=seed)
    small = batch if check.gradient_shape == check.shape else random_batch(config, *check.gradient_shape, seed=seed)
    judges_update = check.precision in BUDGETS and BUDGETS[check.precision].update is not None

    def ask(name: str, precision: str, where: torch.device) -> ModelOutputs:
        model = build_in(precision, name, config, weights, where)
        before = weights if judges_update else None
        build, steps = find(name).build_step, check.steps
        return collect_outputs(
            model, build, batch, small, steps, learning_rate=LEARNING_RATE, weights=before, first_weights=weights
        )

    tell(f"{check.question}: the oracle, {ORACLE} in float64")
    oracle = ask(ORACLE, "float64", device if device.type == "cuda" else torch.device("cpu"))

    def report(name: str) -> Report:
        tell(f"{check.question}: {name} in {check.precision}")
        return compare_outputs(ask(name, check.precision, device), oracle)

    plain = None
    if check.precision == "bfloat16":
        plain = report(ROUNDING_BASE)
        allowed = rounding_allowance(plain)
    else:
        allowed = BUDGETS[check.precision]
    for name in names:
        yield name, Verdict(check, plain if plain is not None and name == ROUNDING_BASE else report(name), allowed)
