"""Is each contender the same function, and does it only round? Asked before anything is timed.

The oracle is Hugging Face's GPT-2 with explicit attention, in float64. Every contender starts from the weights of the
oracle and is held against its logits, loss, every gradient and a number of AdamW steps. The oracle's own code is a
contender like the others: in float64 it must differ by exactly nothing, in float32 it shows how much peers round.

For float64 and float32 the budgets are those of `bench.budgets`. bfloat16 keeps 8 significant bits, too few to tell one
GELU from another, so there it takes two proofs:

    function   in float32, without autocast, by the float32 budgets
    rounding   with autocast, by the rule: at most twice the error (logits, loss) or three times the error (gradients,
               tensor by tensor) of the reference under the same autocast, plus one unit in the last place; and never
               more than a cap. The reference itself is judged by the caps.

The weights of the first are "hot": all random, attention sharp, nothing zero. Those of the second are "warm": as hot,
but with q and k of ordinary size and with the residual projections narrowed by 1/sqrt(2 L), as GPT-2 begins. Sharp
attention multiplies rounding: with hot weights at gpt2 size even plain code loses 8 % of a gradient in bfloat16, more
than the cap, and twice that would say little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.budgets import BUDGETS
from bench.contenders import CONTENDERS, Weights, build_in, own_precision
from bench.hot import hot_state_dict, random_batch
from bench.parity import BuildStep, Measurement, Report, distance, gradients, measure_all
from bench.workloads import Workload
from reference.config import GPTConfig

ORACLE = "huggingface-eager"
PLAIN = "reference"  # what other bfloat16 code may round like

# Neighbours in bfloat16 are 2^-8 to 2^-7 of their size apart; the strict end of that.
BF16_ULP = 2.0**-8
BF16_FACTORS = {"logits": 2.0, "loss": 2.0, "gradient": 3.0}
BF16_CAPS = {"logits": 2e-2, "loss": 2e-2, "gradient": 5e-2, "trajectory": 1e-2}

# Of the trajectory. Adam moves a parameter by this much however small its gradient, even one that is only rounding. At
# 1e-4 the losses of a hot GPT-2 fall so steeply that five steps grow float32's rounding from 1e-7 to 3e-6 in code that
# is right; at 1e-5 it stays where it began. The float64 proof judges the update itself, which scales with this.
LEARNING_RATE = 1e-5

Batch = tuple[Tensor, Tensor]
Allowance = Callable[[Measurement], float | None]  # None: shown, not judged
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One proof: its question, the precision it is asked in, and on what."""

    question: str  # function or rounding
    precision: str
    weights: str  # hot or warm
    shape: tuple[int, int]  # (B, T) of logits and loss: the shape that is timed
    gradient_shape: tuple[int, int]  # (B, T) of gradients and steps: the same, or smaller
    steps: int


@dataclass(frozen=True)
class Verdict:
    """What became of one contender in one part."""

    part: Part
    report: Report
    allowed: Allowance

    def over(self, measurement: Measurement) -> float:
        """error / budget, above 1 a failure; 0 where nothing is judged or nothing differs."""
        allowed = self.allowed(measurement)
        return 0.0 if allowed is None or measurement.error == 0.0 else measurement.error / allowed

    def worst_over(self) -> float:
        """The largest error / budget."""
        return max(self.over(m) for m in self.report.measurements)

    def failures(self) -> list[Measurement]:
        """What is beyond its budget, furthest first. NaN is."""
        return sorted((m for m in self.report.measurements if not self.over(m) <= 1.0), key=lambda m: -self.over(m))


def parts_of(workload: Workload, precision: str, steps: int | None = None, rounding: bool = False) -> list[Part]:
    """The proofs that a precision needs.

    Args:
        rounding: whether some contender computes in bfloat16 although float32 is asked for
        steps: length of the trajectory; None for as long as the size affords, at most 20; 0 for none
    """
    shape, small = (workload.batch, workload.time), workload.proof_shape()
    steps = workload.proof_steps() if steps is None else steps
    if precision == "bfloat16" or (precision == "float32" and rounding):
        return [
            Part("function", "float32", "hot", shape, small, steps),
            Part("rounding", "bfloat16", "warm", shape, small, steps),
        ]
    return [Part("function", precision, "hot", shape, small, steps)]


def warm_state_dict(config: GPTConfig, seed: int = 0) -> Weights:
    """Hot weights, float32, with the attention and the residual stream of an ordinary GPT-2; see above for what for."""
    narrower = 1.0 / math.sqrt(2 * config.n_layer)
    weights = hot_state_dict(config, seed, torch.float32)
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor.mul_(0.5)  # hot ones are drawn twice as wide as keeps the variance
        elif name.endswith("c_proj.weight"):
            tensor.mul_(narrower)
    return weights


def asked_of(part: Part, precision: str, names: Sequence[str]) -> list[str]:
    """Who has to give a proof: of rounding, only those that compute in bfloat16."""
    return [n for n in names if part.question == "function" or own_precision(precision, n) == "bfloat16"]


def weights_of(part: Part, config: GPTConfig, seed: int) -> Weights:
    """The weights of a part, float32 values, which every precision but bfloat16 holds exactly."""
    return warm_state_dict(config, seed) if part.weights == "warm" else hot_state_dict(config, seed, torch.float32)


@dataclass(frozen=True)
class Observation:
    """What a model answers, on the CPU."""

    logits: Tensor  # (B, T, V)
    loss: Tensor
    gradients: dict[str, Tensor]  # by canonical name
    losses: list[Tensor]  # of the AdamW steps
    update: dict[str, Tensor]  # p1 - p0 over those steps; empty unless asked for


def observe(
    model: nn.Module, build: BuildStep, weights: Weights, batch: Batch, small: Batch, steps: int, with_update: bool
) -> Observation:
    """Ask a model everything. It is trained on the way, so it is of no more use afterwards.

    Args:
        model: on its device, in its precision, holding `weights`
        build: makes its training step
        weights: canonical, what it starts from
        batch: ids and targets (B, T) for logits and loss
        small: ids and targets for gradients and steps; may be the same
        steps: AdamW steps, each on `small` rolled one further along B and T
        with_update: whether to say how far each parameter went in those steps, which costs as much memory again
    """
    device = next(model.parameters()).device
    (ids, targets), (small_ids, small_targets) = ([t.to(device) for t in pair] for pair in (batch, small))
    model.eval()
    with torch.no_grad():
        logits = model(ids).cpu()
    loss, found = gradients(model, small_ids, small_targets)
    if small is not batch:
        with torch.no_grad():
            loss = model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
    losses, update = [], {}
    if steps:
        step = build(model, learning_rate=LEARNING_RATE, weight_decay=0.1)
        for s in range(steps):
            losses.append(step(small_ids.roll((s, s), (0, 1)), small_targets.roll((s, s), (0, 1))).cpu())
        if with_update:
            after = model.state_dict()
            update = {name: after[name].detach().cpu() - tensor for name, tensor in weights.items()}
    return Observation(logits, loss.cpu(), {name: g.cpu() for name, g in found.items()}, losses, update)


def hold_against(actual: Observation, oracle: Observation) -> Report:
    """Measure one observation against the oracle's."""
    agree = actual.logits.argmax(-1) == oracle.logits.argmax(-1)  # (B, T)
    report = Report(top1=float(agree.double().mean()))
    report.measurements.append(Measurement("logits", "logits", *distance(actual.logits, oracle.logits)))
    report.measurements.append(Measurement("loss", "loss", *distance(actual.loss, oracle.loss)))
    report.measurements.extend(measure_all("gradient", actual.gradients, oracle.gradients))
    # a loss that has fallen to almost nothing is held against what the losses were, not against nothing
    typical = math.sqrt(sum(float(y) ** 2 for y in oracle.losses) / max(1, len(oracle.losses)))
    for number, (x, y) in enumerate(zip(actual.losses, oracle.losses, strict=True)):
        report.measurements.append(Measurement("trajectory", f"step {number}", *distance(x, y, typical)))
    if actual.update:
        report.measurements.extend(measure_all("update", actual.update, oracle.update))
    return report


def rounding_allowance(plain: Report, ulp: float = BF16_ULP) -> Allowance:
    """What bfloat16 code may be off by, given what plain code is off by on the same task; `ulp` for another type."""
    errors = {(m.quantity, m.name): m.error for m in plain.measurements}

    def allowed(measurement: Measurement) -> float | None:
        cap, factor = BF16_CAPS.get(measurement.quantity), BF16_FACTORS.get(measurement.quantity)
        if cap is None or factor is None:
            return cap
        return min(cap, factor * errors[measurement.quantity, measurement.name] + ulp)

    return allowed


def prove(
    part: Part,
    config: GPTConfig,
    weights: Weights,
    names: Sequence[str],
    device: torch.device,
    seed: int,
    tell: Tell,
) -> Iterator[tuple[str, Verdict]]:
    """Put one part to contenders, one after the other, so that only one of them is in memory; yields each as it comes.

    Args:
        weights: of `weights_of`
        names: contenders, in the order they are wanted
        device: of the contenders. The oracle works there too if it is a CUDA device, else on the CPU, because not
            every accelerator has float64.
        seed: of the batches
        tell: told what is being done
    """
    batch = random_batch(config, *part.shape, seed=seed)
    small = batch if part.gradient_shape == part.shape else random_batch(config, *part.gradient_shape, seed=seed)
    judges_update = part.precision in BUDGETS and BUDGETS[part.precision].update is not None

    def ask(name: str, precision: str, where: torch.device) -> Observation:
        model = build_in(precision, name, config, weights, where)
        return observe(model, CONTENDERS[name].build_step, weights, batch, small, part.steps, judges_update)

    tell(f"{part.question}: the oracle, {ORACLE} in float64")
    oracle = ask(ORACLE, "float64", device if device.type == "cuda" else torch.device("cpu"))

    def report(name: str) -> Report:
        tell(f"{part.question}: {name} in {part.precision}")
        return hold_against(ask(name, part.precision, device), oracle)

    plain = None
    if part.precision == "bfloat16":
        plain = report(PLAIN)
        allowed = rounding_allowance(plain)
    else:
        allowed = budget_allowance(part.precision)
    for name in names:
        yield name, Verdict(part, plain if plain is not None and name == PLAIN else report(name), allowed)


def stages(part: Part, names: Sequence[str]) -> int:
    """How often `prove` tells what it is doing."""
    return 1 + len({*names, PLAIN} if part.precision == "bfloat16" else names)


def budget_allowance(precision: str) -> Allowance:
    """The budgets of `bench.budgets`."""
    budget = BUDGETS[precision]
    return lambda measurement: budget.of(measurement.quantity)
