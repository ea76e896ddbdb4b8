"""Is each contender the same function, and does it only round? Asked before anything is timed.

The oracle is Hugging Face's GPT-2 with explicit attention, in float64. Every contender starts from the weights of the
oracle and is held against its logits, loss, every gradient and a number of AdamW steps. The oracle's own code is a
contender like the others: in float64 it must differ by exactly nothing, in float32 it shows how much peers round.

For float64 and float32 the budgets are those of `bench.numerics.tolerances`. bfloat16 keeps 8 significant bits, too few
to tell one GELU from another, so there it takes two checks:

    function   in float32, without autocast, by the float32 budgets
    rounding   with autocast, by the rule: at most twice the error (logits, loss) or three times the error (gradients,
               tensor by tensor) of the reference under the same autocast, plus one unit in the last place; and never
               more than a cap. The reference itself is judged by the caps.

The function check has "sharp" weights: all random, none zero, attention sharp. The rounding check has "typical" ones:
the same, with q and k of ordinary size and the residual projections scaled by 1/sqrt(2 L), as in a new GPT-2. Sharp
attention multiplies rounding: with sharp weights at gpt2 size even plain code loses 8 % of a gradient in bfloat16, more
than the cap, and twice that would prove little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.contenders import Weights, build_in, find, own_precision
from bench.numerics.errors import Allowance, Measurement, Report
from bench.numerics.inputs import random_batch, sharp_state_dict, typical_state_dict
from bench.numerics.outputs import ModelOutputs, collect_outputs, compare_outputs
from bench.numerics.tolerances import BUDGETS, rounding_allowance
from bench.workloads.workload import Workload
from reference.config import GPTConfig

ORACLE = "huggingface-eager"
PLAIN = "reference"  # what other bfloat16 code may round like

# Of the trajectory. Adam moves a parameter by this much however small its gradient, even one that is only rounding. At
# 1e-4 the losses of sharp weights fall so steeply that five steps grow float32's rounding from 1e-7 to 3e-6 in correct
# code; at 1e-5 it does not grow. The float64 check judges the update itself, which scales with this.
LEARNING_RATE = 1e-5

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One check of a proof: its question, its precision, and its weights and shapes."""

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
        """error / budget, above 1 a failure; 0 where nothing is judged or nothing differs."""
        return measurement.over(self.allowed)

    def worst_over(self) -> float:
        """The largest error / budget."""
        return self.report.over(self.allowed)

    def failures(self) -> list[Measurement]:
        """What is beyond its budget, furthest first. NaN is."""
        return self.report.failures(self.allowed)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Inside, this thread and those that it starts take float32 numbers below 1.2e-38 for zero, where the CPU can.

    Sharp attention has many of them among its probabilities, and a CPU computes with one a hundred times slower: at
    gpt2's size a training step of the readable model takes 7 s with them and 3 s without. Nothing that a proof measures
    is so small: its budgets are 1e-6 of a tensor's norm. To be entered before torch has computed anything in parallel,
    as its threads keep what they began with.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def checks_of(workload: Workload, precision: str, steps: int | None = None, rounding: bool = False) -> list[Check]:
    """The checks that a precision needs.

    Args:
        rounding: whether some contender computes in bfloat16 although float32 is asked for
        steps: length of the trajectory; None for as long as the size affords, at most 20; 0 for none
    """
    shape, small = (workload.batch, workload.time), workload.proof_shape()
    steps = workload.proof_steps() if steps is None else steps
    if precision == "bfloat16" or (precision == "float32" and rounding):
        return [
            Check("function", "float32", "sharp", shape, small, steps),
            Check("rounding", "bfloat16", "typical", shape, small, steps),
        ]
    return [Check("function", precision, "sharp", shape, small, steps)]


def asked_of(check: Check, precision: str, names: Sequence[str], config: GPTConfig, device: torch.device) -> list[str]:
    """Names of the contenders that a check applies to: rounding, only to those that compute in bfloat16."""
    if check.question == "function":
        return list(names)
    return [name for name in names if own_precision(precision, name, config, device) == "bfloat16"]


def weights_of(checks: Sequence[Check], config: GPTConfig, seed: int) -> Iterator[tuple[Check, Weights]]:
    """Each check with its weights, float32 values, which every precision but bfloat16 holds exactly.

    The weights of one check become those of the next: use them before you ask for the next.
    """
    sharp = None
    for check in checks:
        if check.weights == "sharp":
            sharp = sharp_state_dict(config, seed, torch.float32)
            yield check, sharp
        else:
            yield check, typical_state_dict(config, seed, sharp)
            sharp = None  # they are typical now


def prove(
    check: Check,
    config: GPTConfig,
    weights: Weights,
    names: Sequence[str],
    device: torch.device,
    seed: int,
    tell: Tell,
) -> Iterator[tuple[str, Verdict]]:
    """Check contenders one after the other, so that only one of them is in memory; yields each verdict at once.

    Args:
        weights: of `weights_of`
        names: contenders, in the order they are wanted
        device: of the contenders. The oracle works there too if it is a CUDA device, else on the CPU, because not
            every accelerator has float64.
        seed: of the batches
        tell: called with a line that says what is being done
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
        plain = report(PLAIN)
        allowed = rounding_allowance(plain)
    else:
        allowed = BUDGETS[check.precision]
    for name in names:
        yield name, Verdict(check, plain if plain is not None and name == PLAIN else report(name), allowed)


def stages(check: Check, names: Sequence[str]) -> int:
    """Number of times that `prove` calls `tell`."""
    return 1 + len({*names, PLAIN} if check.precision == "bfloat16" else names)
