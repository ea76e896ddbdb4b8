"""Is a candidate GPT the same function as the reference? If not: where do they first differ, and why?

The oracle is the reference in float64; both models hold the same sharp random weights. A candidate is judged in float64
if it computes in it, else in float32, which proves less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.candidate.adapter import Build, Candidate
from bench.candidate.depth import errors_along
from bench.candidate.diagnose import (
    Cause,
    Where,
    observe,
    of_gradients,
    of_logits,
    of_loss,
    of_structure,
    too_small,
    where_rounded,
)
from bench.candidate.examination import SHARP, Examination, Lowering, Unjudged
from bench.candidate.judge_rounding import rounding
from bench.candidate.layouts import Layout
from bench.candidate.lifted import lowered
from bench.candidate.modes import judge_modes
from bench.candidate.reordered import LARGEST, logits_scale, training_scales
from bench.candidate.search_causes import Probe
from bench.candidate.traced_gpt import Changes
from bench.candidate.validate import lifted_candidate, logits_at, validate
from bench.formatting import one_line
from bench.numerics.budgets import BUDGETS
from bench.numerics.errors import Measurement, distance
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.numerics.outputs import Batch, ModelOutputs, collect_outputs, compare_outputs
from bench.user_code.refused import Refused, called, in_one_line, place_in_own_code
from reference.config import GPTConfig
from reference.gpt import GPT
from reference.training.step import build_step

# All numbers differ, so that swapping two shows; only H is a power of two, so that padding shows.
TEST_SIZE = GPTConfig(block_size=48, vocab_size=211, n_layer=3, n_head=4, n_embd=48)
LEARNING_RATE = 1e-5  # see bench/contenders/verify.py
LARGE = 5_000_000  # above this number of parameters the diagnosis is first tried at the test size
SHARPNESS = 40.0  # gives scores of 1e4: a finite mask value that is not low enough shows
MOST_SHARP = 12  # blocks with such scores: each multiplies rounding by six

Tell = Callable[[str], None]


@in_one_line()
def examine(
    build: Build,
    layout: Layout,
    *,
    name: str = "the candidate",
    layout_name: str = "canonical",
    config: GPTConfig = TEST_SIZE,
    batch: int = 3,
    time: int | None = None,
    steps: int = 20,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    seed: int = 0,
    depth: bool = False,
    tell: Tell = lambda what: None,
) -> Examination:
    """Test a candidate against the reference.

    Args:
        build: config -> a module that maps ids (B, T) to logits (B, T, V)
        layout: canonical weights and config -> the module's weights
        name, layout_name: for the report
        config: of both models; with dropout 0
        batch, time: B and T; time None for three quarters of the block, at most 96
        steps: AdamW steps to compare; 0 for none
        device: of the candidate
        precision: float64 or float32; None for float64, or float32 if the candidate does not compute in float64;
            bfloat16, float16 or as-built to judge its rounding only
        seed: of weights and tokens
        depth: whether to measure every activation, for the page
        tell: called with a line that says what is being done

    Raises ValueError, one line, for a candidate that cannot be tested.
    """
    time, device = usual_time(config) if time is None else time, torch.device(device)
    if precision not in (None, "float64", "float32"):
        return rounding(build, layout, name, layout_name, config, batch, time, device, precision, seed)
    weights, pair = sharp_state_dict(config, seed), random_batch(config, batch, time, seed)
    tell("building the candidate")
    valid = validate(build, layout, config, weights, pair, device, precision)
    if valid.candidate.ignored is None:
        pair = random_batch(config, batch, time, seed, ignored=0.0)
    tell("the reference in float64")
    oracle = GPT(config).double()
    oracle.load_state_dict(weights)
    settings: dict[str, Any] = {"learning_rate": LEARNING_RATE}
    expected = collect_outputs(oracle, build_step, pair, pair, steps, weights=weights, **settings)
    if steps:
        oracle.load_state_dict(weights)
    main = Probe("logits", weights, pair[0])
    probes = [main, *other_probes(weights, config, seed, valid.precision, time)]

    def judged(candidate: Candidate, judged_in: str) -> tuple[Examination, ModelOutputs]:
        """A candidate's examination without a diagnosis, and its outputs."""
        tell(f"the candidate in {judged_in}")
        found = collect_outputs(candidate, Candidate.build_step, pair, pair, steps, weights=weights, **settings)
        if steps:
            candidate.load(weights)
        report = compare_outputs(found, expected)
        seen = Examination(name, layout_name, config, batch, time, steps, str(device), judged_in, report)
        seen.given, seen.converted = judged_in, [own for own in candidate.built_in if own != judged_in]
        tell("one token, the whole block, sharper attention")
        for probe in probes[1:]:
            try:
                report.measurements.append(measured(probe, candidate, oracle, weights, seen.notes))
            except Refused as error:
                seen.unjudged.append(Unjudged(probe.name, str(error).removeprefix("candidate: "), error))
        if candidate.with_targets and candidate.last_only is not None:
            report.measurements.append(measured_without_targets(candidate, pair[0], expected.logits))
        return seen, found

    candidate, inside, lifted = valid.candidate, valid.inside, valid.lifted
    seen, found = judged(candidate, valid.precision)
    measure_rounding(seen, oracle, probes, pair, expected)
    large = config.parameter_count() > LARGE and config != TEST_SIZE
    small = None
    if not seen.same and large:
        tell("first difference and known mistakes, at the test size")
        small = different_at_test_size(build, layout, str(device), precision)
    # where it asks for fewer bits, it does so at the test size too
    asks = small is None or small.lowering is not None
    if not seen.same and asks and precision is None and valid.precision == "float64":
        inside, lifted = candidate, rounded_otherwise(candidate, build, layout, weights, pair)
    if lifted is not None and inside is not None:
        strict, of_lifted = judged(lifted, "float64")
        strict.scales = seen.scales
        measure_rounding(strict, oracle, probes, pair, expected)
        seen.lowering = Lowering(
            lowered(inside, lifted, pair[0]), valid.why, where_rounded(inside, main), strict.report, strict.same
        )
        if strict.same:
            seen.precision = "float32"
        else:
            strict.lowering = seen.lowering
            seen, found, candidate = strict, of_lifted, lifted
    seen.notes = valid.notes + seen.notes
    changes: Changes | None = None  # that explain all of its logits
    if not seen.same and seen.lowering is not None and seen.only_rounds:
        seen.causes.append(seen.lowering.cause())
        seen.where = Where(forward=seen.lowering.first)
        changes = None if seen.failed("logits") else ()
    elif not seen.same and small is not None:
        seen.where, seen.causes = small.where, small.causes
        seen.notes.append("diagnosed at the test size, at which it differs too")
    elif not seen.same:
        changes = explain(seen, candidate, probes, pair, found.gradients, tell)
    if (
        changes is not None and not large and (seen.lowering is None or seen.only_rounds)
    ):  # modes are judged as it is built
        tell("dropout and train mode")
        count, measurements = len(seen.causes), list(seen.report.measurements)
        explained = logits_at(candidate, pair[0]), changes
        judge_modes(seen, build, layout, config, weights, pair, device, explained)
        seen.causes[count:] = [replace(cause, link="and") for cause in seen.causes[count:]]
        # against its own logits: only a failure says something
        new = seen.report.measurements[len(measurements) :]
        seen.report.measurements = measurements + [m for m in new if m.over(seen.allowed) > 1.0]
    if seen.precision == "float32" and not seen.only_rounds:
        tell("what float32 cannot see")
        seen.unseen = too_small(*on_test_size() if large else (config, weights, pair[0]), BUDGETS["float32"].logits)
    if depth:
        tell("errors along the depth")
        candidate.load(weights)
        seen.depth = errors_along(candidate, main, seen.precision)
    if seen.same:
        seen.notes.extend(f"{cause.what}: no number here shows it" for cause in of_structure(candidate))
        tell("dropout and train mode")
        at_size = (config, weights, pair)
        if large:
            at_size = (TEST_SIZE, sharp_state_dict(TEST_SIZE), random_batch(TEST_SIZE, 3, usual_time(TEST_SIZE)))
        judge_modes(seen, build, layout, *at_size, device)
    return seen


def measure_rounding(seen: Examination, oracle: GPT, probes: list[Probe], pair: Batch, expected: ModelOutputs) -> None:
    """Measure the reference's own rounding where a candidate in float64 slightly exceeds a budget."""

    def doubtful(quantity: str) -> set[str]:
        """Names of the measurements over budget; empty if any error is too large to be rounding."""
        beyond = [m for m in seen.failures if m.quantity == quantity]
        return set() if any(not m.error <= LARGEST for m in seen.failures) else {m.name for m in beyond}

    if seen.precision != "float64" or seen.same:
        return
    for probe in probes:
        if probe.name in doubtful("logits") and probe.name not in seen.scales:
            seen.scales[probe.name] = logits_scale(oracle, probe)
    rest = [quantity for quantity in ("loss", "gradient", "trajectory", "update") if doubtful(quantity)]
    if rest and not seen.failed("logits"):
        steps = seen.steps if {"trajectory", "update"} & set(rest) else 0
        seen.scales |= training_scales(oracle, probes[0].weights, pair, steps, LEARNING_RATE, expected)
    oracle.load_state_dict(probes[0].weights)


def rounded_otherwise(
    candidate: Candidate, build: Build, layout: Layout, weights: dict[str, Tensor], pair: Batch
) -> Candidate | None:
    """The candidate in float64 throughout, if that changes its logits or its loss."""
    device = next(candidate.parameters()).device
    lifted = lifted_candidate(build, layout, candidate.config, weights, pair, device)
    if lifted is None:
        return None
    ids, targets = (t.to(device) for t in pair)
    with torch.no_grad():
        same = torch.equal(candidate(ids), lifted(ids))
        same = same and torch.equal(candidate.loss(ids, targets), lifted.loss(ids, targets))
    return None if same else lifted


def on_test_size() -> tuple[GPTConfig, dict[str, Tensor], Tensor]:
    """The test size, with weights and ids."""
    return TEST_SIZE, sharp_state_dict(TEST_SIZE), random_batch(TEST_SIZE, 3, usual_time(TEST_SIZE))[0]


def different_at_test_size(build: Build, layout: Layout, device: str, precision: str | None) -> Examination | None:
    """The examination at the test size; None if the candidate is right there, or cannot be built."""
    try:
        small = examine(build, layout, steps=0, device=device, precision=precision)
    except ValueError:
        return None
    return None if small.same else small


def usual_time(config: GPTConfig) -> int:
    """T: shorter than the block, so that an off-by-one position has a row in the table; at most 96, if large 48."""
    return max(1, min(48 if config.parameter_count() > LARGE else 96, 3 * config.block_size // 4))


def other_probes(
    weights: dict[str, Tensor], config: GPTConfig, seed: int, precision: str, time: int
) -> Iterator[Probe]:
    """Probes beside the main comparison: one token, the whole block, and scores of 1e4."""
    yield Probe("logits of 1 token", weights, random_batch(config, 2, 1, seed + 1)[0])
    if config.block_size > 1:
        batch = 1 if config.parameter_count() > LARGE else 2
        ids = random_batch(config, batch, config.block_size, seed + 2)[0]
        yield Probe(f"logits of {config.block_size} tokens", weights, ids)
    if precision == "float64":  # in float32 such scores leave few correct digits
        chosen = {f"h.{i * config.n_layer // MOST_SHARP}." for i in range(MOST_SHARP)}  # all, if they are few
        chosen = chosen if config.n_layer > MOST_SHARP else {f"h.{i}." for i in range(config.n_layer)}
        kinds = ("attn.q_proj", "attn.k_proj")
        sharp = {
            n: t * SHARPNESS if n.startswith(tuple(chosen)) and any(kind in n for kind in kinds) else t
            for n, t in weights.items()
        }
        yield Probe(SHARP, sharp, random_batch(config, 3, time, seed + 3)[0])


def measured(
    probe: Probe, candidate: Candidate, oracle: GPT, usual: dict[str, Tensor], notes: list[str]
) -> Measurement:
    """The error of the logits of a probe; infinite for another shape. Raises Refused if the candidate raises."""
    with holding(probe.weights, usual, candidate, oracle):
        with torch.no_grad():
            expected = oracle(probe.ids)
        logits = logits_at(candidate, probe.ids)
    if logits.shape != expected.shape:
        notes.append(f"for ids of shape {tuple(probe.ids.shape)} it returns logits of shape {tuple(logits.shape)}")
        return Measurement("logits", probe.name, math.inf, math.inf)
    return Measurement("logits", probe.name, *distance(logits, expected))


def measured_without_targets(candidate: Candidate, ids: Tensor, expected: Tensor) -> Measurement:
    """The error of the logits in a call without targets, of all positions or of the last."""
    device = next(candidate.parameters()).device
    with torch.no_grad():
        logits = called(lambda: candidate.without_targets(ids.to(device)), "a call without targets")
    right = expected[:, -1:].clone() if logits.shape[1] == 1 else expected
    return Measurement("logits", "logits without targets", *distance(logits, right))


@contextmanager
def holding(
    now: dict[str, Tensor], later: dict[str, Tensor], candidate: Candidate, oracle: GPT | None
) -> Iterator[None]:
    """Inside the block, both models hold the weights `now`; afterwards `later`."""

    def load(weights: dict[str, Tensor]) -> None:
        if now is not later:
            candidate.load(weights)
            if oracle is not None:
                oracle.load_state_dict(weights)

    load(now)
    try:
        yield
    finally:
        load(later)


def explain(
    seen: Examination,
    candidate: Candidate,
    probes: list[Probe],
    pair: tuple[Tensor, Tensor],
    gradients: dict[str, Tensor],
    tell: Tell,
) -> Changes | None:
    """Add the first difference and its likely causes to an examination.

    Returns the changes of the reference that explain all logits; None if there are none.
    """
    usual, beyond = probes[0].weights, {m.name for m in seen.failures if m.quantity == "logits"}
    changes: Changes = ()
    explained = not beyond
    try:
        wrong = [probe for probe in probes if probe.name in beyond]
        if wrong:
            tell("first difference and known mistakes")
            others = {m.name for m in seen.report.of("logits") if math.isfinite(m.error)}
            observed = []
            for probe in [*wrong, *(p for p in probes if p.name in others - beyond)]:
                with holding(probe.weights, usual, candidate, None):
                    leniency = seen.leniency(probe.name)
                    observed.append(observe(candidate, probe, seen.precision, leniency, probe.name in beyond))
            seen.where, causes, found = of_logits(candidate, observed, seen.precision)
            seen.causes.extend(causes)
            changes, explained = found.changes, bool(found.states)
            if wrong[0] is not probes[0]:
                seen.notes.append(f"diagnosed on the {wrong[0].name}")
        if explained and (seen.failed("loss") or seen.failed("gradient")):
            tell("loss and gradients, and known mistakes")
            causes, loss_of = of_loss(candidate, usual, pair, seen.precision, changes)
            add(seen, causes)
            if loss_of is not None:
                where, causes = of_gradients(candidate, usual, pair, gradients, seen.precision, changes, loss_of)
                add(seen, causes)
                seen.where = where if seen.where is None else replace(seen.where, backward=where.backward)
        twice = of_structure(candidate)
        if seen.failed("trajectory") or seen.failed("update"):
            seen.causes.extend(twice)
        else:
            seen.notes.extend(cause.what for cause in twice)
    except Exception as error:  # it ran when measured, but not when recorded
        why = str(error) if isinstance(error, Refused) else one_line(error) + place_in_own_code(error)
        seen.notes.append(f"the first difference is unknown: {why}")
    return changes if explained else None


def add(seen: Examination, causes: list[Cause]) -> None:
    """Add causes of something that those before do not explain."""
    if seen.causes and causes:
        causes = [replace(causes[0], link="and"), *causes[1:]]
    seen.causes.extend(causes)
