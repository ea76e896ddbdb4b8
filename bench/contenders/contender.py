"""The rows of the table of contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.numerics.outputs import BuildStep
from optimized import best
from reference import GPTConfig, generate

Weights = dict[str, Tensor]
Build = Callable[[GPTConfig, Weights | None, torch.device, torch.dtype], nn.Module]
Generate = Callable[[Any, Tensor, int], Tensor]


def greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """Generate without a cache: a forward pass over the whole text for each token."""
    return generate(model, ids, new, temperature=0.0)


UsesBfloat16 = Callable[[GPTConfig, torch.device], bool]


def never(config: GPTConfig, device: torch.device) -> bool:
    """Compute in the given precision."""
    return False


def always(config: GPTConfig, device: torch.device) -> bool:
    """Compute in bfloat16 always."""
    return True


def where_it_pays(config: GPTConfig, device: torch.device) -> bool:
    """Compute in bfloat16 if `optimized.best` does, at this shape on this device."""
    return "bf16" in best(str(device), "float32", config)


def same(config: GPTConfig) -> str:
    """No known difference: it must be the same function."""
    return ""


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    description: str
    build: Build  # (config, canonical weights or None for random ones, device, dtype of the weights) -> model
    build_step: BuildStep  # a training step of that model: forward, backward, clip at 1.0, AdamW
    # (model in eval mode, prompt (B, T), n) -> prompt and n greedy tokens (B, T + n)
    generate: Generate = greedy
    build_bfloat16: Build | None = None  # bfloat16 over float32 weights; None: `build` under autocast
    float64: bool = True  # whether it can compute in float64
    uses_bfloat16: UsesBfloat16 = never  # whether it computes in bfloat16 even if float32 is given
    module: str | None = None  # imported before building; may be missing
    # optional packages: import name -> argument of pip install
    needs: Mapping[str, str] = field(default_factory=dict)
    # why it is another function than this GPT-2 at a config; "" if it is the same. The proof runs anyway; these words
    # explain its failure, and then the contender gets no numbers.
    unlike: Callable[[GPTConfig], str] = same


def loaded(model: nn.Module, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a model to a device and dtype; load the weights, if any."""
    model = model.to(device=device, dtype=dtype)
    if weights is not None:
        model.load_state_dict(weights)
    return model
