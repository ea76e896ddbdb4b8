"""Does a candidate in low precision round more than plain code in that precision?

The rule is that of bench/contenders/verify.py: weights are typical, and an error against float64 may be a multiple of
the reference's in the same precision, up to a cap. It shows no wrong formula: bfloat16 rounds by more than the exact
GELU differs from the tanh one.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from bench.candidate.adapter import Build, Candidate
from bench.candidate.examination import Examination
from bench.candidate.layouts import Layout
from bench.candidate.validate import built, found_roundings, learned, look_at, shown
from bench.numerics.budgets import BUDGETS, rounding_allowance
from bench.numerics.inputs import random_batch, typical_state_dict
from bench.numerics.outputs import Batch, ModelOutputs, collect_outputs, compare_outputs
from reference.config import GPTConfig
from reference.gpt import GPT
from reference.training.step import build_step

LEARNING_RATE = 0.0  # no steps are taken


def rounding(
    build: Build,
    layout: Layout,
    name: str,
    layout_name: str,
    config: GPTConfig,
    batch: int,
    time: int,
    device: torch.device,
    precision: str,
    seed: int,
) -> Examination:
    """Judge a candidate by the rounding rule.

    Args:
        precision: bfloat16 or float16, to which its parameters are converted; as-built for those that it has
        others: see `bench.candidate.examine.examine`
    """
    pair = random_batch(config, batch, time, seed)
    typical = {n: t.double() for n, t in typical_state_dict(config, seed).items()}
    wanted = None if precision == "as-built" else precision
    candidate = learned(built(build, layout, config, typical, device, wanted), pair)
    notes = look_at(candidate, pair, wanted)
    if candidate.ignored is None:
        pair = random_batch(config, batch, time, seed, ignored=0.0)
    weights = candidate.state_dict()  # as it holds them
    parameters = {p.dtype for p in candidate.parameters() if p.is_floating_point()}
    widest = max(parameters, key=lambda dtype: dtype.itemsize)
    narrowest = min([*parameters, *(r.dtype for r in found_roundings(candidate, pair[0]))], key=bits)
    found = outputs_of(candidate, pair)
    oracle = GPT(config).double()
    oracle.load_state_dict(weights)
    expected = outputs_of(oracle, pair)
    plain = GPT(config).to(device=device, dtype=widest)
    plain.load_state_dict(weights)
    with torch.autocast(device.type, narrowest) if bits(narrowest) < bits(widest) else nullcontext():
        plain_outputs = outputs_of(plain, pair)
    of_plain = compare_outputs(plain_outputs, expected)
    ulp = torch.finfo(narrowest).eps / 2
    if bits(found.loss.dtype) < bits(torch.float32):
        # plain code's loss is in float32, and a single number may be exact by chance
        of_plain.measurements = [
            replace(m, error=max(m.error, 2 * ulp)) if m.quantity == "loss" else m for m in of_plain.measurements
        ]
    computed = shown(narrowest) if len(parameters) == 1 and narrowest in parameters else f"{shown(narrowest)} (mixed)"
    report = compare_outputs(found, expected)
    seen = Examination(name, layout_name, config, batch, time, 0, str(device), computed, report)
    seen.allowance = BUDGETS["float32"] if narrowest == torch.float32 else rounding_allowance(of_plain, ulp)
    seen.plain = of_plain
    seen.given, seen.converted = precision, [own for own in candidate.built_in if wanted not in (None, own)]
    seen.notes = notes
    return seen


def bits(dtype: torch.dtype) -> float:
    """Significant bits of a floating-point type."""
    return -torch.tensor(torch.finfo(dtype).eps).log2().item()


def outputs_of(model: Candidate | GPT, pair: Batch) -> ModelOutputs:
    """Logits, loss and gradients in eval mode."""
    return collect_outputs(model, build_step, pair, pair, 0, learning_rate=LEARNING_RATE)
