"""What a row of the table says about a contender."""

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
    """The readable way: the whole text again for each token."""
    return generate(model, ids, new, temperature=0.0)


Rounds = Callable[[GPTConfig, torch.device], bool]


def never(config: GPTConfig, device: torch.device) -> bool:
    """It computes in the precision that is asked for."""
    return False


def always(config: GPTConfig, device: torch.device) -> bool:
    """It computes in bfloat16: that is what it is."""
    return True


def where_it_pays(config: GPTConfig, device: torch.device) -> bool:
    """It computes in bfloat16 where `optimized.best` does, at this shape on this device."""
    return "bf16" in best(str(device), "float32", config)


def same(config: GPTConfig) -> str:
    """No difference is known: it is to be the same function."""
    return ""


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    description: str
    build: Build  # from (config, canonical weights or None for its own, device, dtype of the weights)
    build_step: BuildStep  # a whole training step of that model: forward, backward, clip at 1.0, AdamW
    # from (model in eval mode, prompt (B, T), n): the prompt and the n most probable tokens after it, (B, T + n)
    generate: Generate = greedy
    build_bfloat16: Build | None = None  # computing in bfloat16 over float32 weights; None for `build` under autocast
    float64: bool = True  # whether it can compute in it
    rounds: Rounds = never  # whether it computes in bfloat16 even where float32 is asked for
    module: str | None = None  # to be imported before it is built, and where it may be missing
    # optional packages: the name that is imported -> what pip installs
    needs: Mapping[str, str] = field(default_factory=dict)
    # why it is another function than this GPT-2, in words; "" for a config for which it is the same. It is proven all
    # the same: these are the words for a proof that fails, and then it has no numbers.
    unlike: Callable[[GPTConfig], str] = same


def loaded(model: nn.Module, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model moved to its device and precision, with the weights if there are any."""
    model = model.to(device=device, dtype=dtype)
    if weights is not None:
        model.load_state_dict(weights)
    return model
