"""Are the weights with which a candidate is built those of GPT-2's initialisation? No output shows it: a remark."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.candidate.adapter import Build, Candidate
from bench.user_code.refused import called
from reference.config import GPTConfig
from reference.gpt import GPT

USUAL = 0.02  # standard deviation of GPT-2's weights
SIGMAS = 5.0  # that a measured one may be off
KINDS = {  # by the end of a canonical name; a residual projection comes before other weights
    "c_proj.weight": "residual projections",
    "bias": "biases",
    "ln_1.weight": "norm gains",
    "ln_2.weight": "norm gains",
    "ln_f.weight": "norm gains",
    "wte.weight": "token table",
    "wpe.weight": "position table",
    "weight": "other weights",
}


def initial_remarks(candidate: Candidate, build: Build) -> list[str]:
    """Say which of a candidate's initial weights are not GPT-2's, if the rest are.

    A candidate whose token table, or other weights, do not have a standard deviation of 0.02 is not meant to have
    GPT-2's, and there is no remark.
    """
    config = candidate.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        candidate.module.load_state_dict(called(lambda: build(config), "build(config)").state_dict())
        right = {name: tensor.double() for name, tensor in GPT(config).state_dict().items()}
    found = by_kind({name: tensor.cpu() for name, tensor in candidate.state_dict().items()})
    expected = by_kind(right)
    off = [kind for kind, values in found.items() if apart(values, expected[kind], deviations(kind, config))]
    if not {"token table", "other weights"} - set(off):
        return []
    return [f"initial {kind}: {in_words(found[kind])}; GPT-2's: {in_words(expected[kind])}" for kind in off]


def by_kind(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All values of each kind, as a vector."""
    found: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        kind = next(kind for end, kind in KINDS.items() if name.endswith(end))
        found.setdefault(kind, []).append(tensor.flatten())
    return {kind: torch.cat(tensors) for kind, tensors in found.items()}


def deviations(kind: str, config: GPTConfig) -> tuple[float, ...]:
    """The standard deviations that GPT-2's initial weights of a kind have had; none for constants."""
    if kind in ("biases", "norm gains"):
        return ()
    if kind == "residual projections":
        return (USUAL / math.sqrt(2 * config.n_layer),)
    return (USUAL, 0.01) if kind == "position table" else (USUAL,)  # OpenAI's own code has 0.01 for positions


def apart(values: Tensor, expected: Tensor, deviations: tuple[float, ...]) -> bool:
    """Whether initial values have another standard deviation, or are other constants."""
    if not deviations:
        return not torch.equal(values, expected)
    allowed = SIGMAS / math.sqrt(2 * values.numel())
    return all(abs(float(values.std()) / std - 1.0) > allowed for std in deviations)


def in_words(values: Tensor) -> str:
    """Mean and standard deviation, in words."""
    if bool((values == values[0]).all()):
        return f"all {float(values[0]):g}"
    return f"standard deviation {float(values.std()):.2g}, mean {float(values.mean()):.1g}"
