"""Which bugs the usual comparison of two models notices: logits and loss of one random batch, by allclose.

    float64   relative L2 distance of 1e-12
    1e-4      float32, torch.allclose with rtol = atol = 1e-4
    1e-2      float32, torch.allclose with rtol = atol = 1e-2
    bfloat16  products in bfloat16 against float32, torch.allclose with the smallest of 0.01, 0.02, 0.05, 0.1, ... as
              rtol and atol at which correct code passes: a smaller one fails a correct model

Each with the weights of a new model, and with sharp weights. Models are in eval mode, without dropout, and all targets
count, as in most comparisons. The weights come through `from_hf`, as in a comparison with Hugging Face.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.parity import distance
from reference import GPTConfig
from reference.checkpoints.huggingface import from_hf
from reference.training.loop import initial_weights
from tests.bugs import oracle
from tests.bugs.mutant import Mutant
from tests.bugs.sides import Side

CONFIG = GPTConfig(block_size=32, vocab_size=257, n_layer=2, n_head=4, n_embd=64)
WEIGHTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "default weights": lambda: {name: tensor.double() for name, tensor in initial_weights(CONFIG, 0).items()},
    "sharp weights": lambda: sharp_state_dict(CONFIG, 0),
}
WAYS = ("float64", "1e-4", "1e-2", "bfloat16")
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

Said = tuple[Tensor, Tensor]  # logits and loss


@cache
def weights(kind: str) -> dict[str, Tensor]:
    """Canonical, in float64; taken before any mutant is injected, since the cache is filled by `expected`."""
    return WEIGHTS[kind]()


BATCH = random_batch(CONFIG, 2, 32, seed=0, ignored=0.0)


@cache
def expected(kind: str) -> Said:
    """What the oracle says."""
    return oracle.logits(weights(kind), BATCH[0], CONFIG.n_head), oracle.loss(weights(kind), BATCH, CONFIG.n_head)


@torch.no_grad()
def said(side: Side, kind: str, way: str) -> Said:
    """What a side says, in the precision of a way."""
    dtype = torch.float64 if way == "float64" else torch.float32
    given = from_hf({name: t.to(dtype) for name, t in oracle.hugging_face(weights(kind)).items()}, CONFIG)
    if way == "bfloat16" and side.recipe is not None:
        model: Any = side.plus("bf16").model(given, CONFIG, dtype).eval()
    else:
        model = side.model(given, CONFIG, dtype).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "bfloat16" and side.recipe is None):
        return model(BATCH[0]), model.loss(*BATCH)


@cache
def bfloat16_tolerance(side: Side, kind: str) -> float:
    """The least tolerance at which the right code passes."""
    right = said(side, kind, "bfloat16")
    return next(t for t in TOLERANCES if close(right, expected(kind), t))


def close(actual: Said, wanted: Said, tolerance: float) -> bool:
    """torch.allclose of both, in float32."""
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(actual, wanted, strict=True)
    )


def passes(side: Side, kind: str, way: str) -> bool:
    """Whether a usual comparison finds nothing wrong with a side."""
    try:
        actual = said(side, kind, way)
    except (ValueError, IndexError, RuntimeError):
        return False
    if way == "float64":
        wanted = expected(kind)
        return all(a.shape == b.shape and distance(a, b)[0] <= 1e-12 for a, b in zip(actual, wanted, strict=True))
    return close(actual, expected(kind), bfloat16_tolerance(side, kind) if way == "bfloat16" else float(way))


def seen(mutant: Mutant) -> dict[tuple[str, str], bool]:
    """By weights and way: whether it would have been noticed."""
    for kind in WEIGHTS:  # what is cached is of the right code
        expected(kind)
        bfloat16_tolerance(mutant.side, kind)
    with mutant.injected():
        return {(kind, way): not passes(mutant.side, kind, way) for kind in WEIGHTS for way in WAYS}
