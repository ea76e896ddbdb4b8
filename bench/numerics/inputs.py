"""Weights and batches for comparisons: nothing zero, nothing one, nothing symmetric.

The usual initialisation hides bugs: with zero biases and unit gains a dropped bias or two swapped LayerNorms change
nothing at all, and with weights of 0.02 every attention is nearly uniform. Here every parameter is random and the
queries and keys are large enough for attention to choose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reference.checkpoints.huggingface import canonical_shapes
from reference.config import GPTConfig


def hot_state_dict(config: GPTConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random weights for every tensor of the canonical layout.

    Args:
        config: the shape
        seed: the same seed gives the same weights
        dtype: drawn in float64, rounded to float32 (so that both precisions can hold them exactly), then cast
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in canonical_shapes(config).items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if "ln_" in name:
            tensor = 0.3 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            tensor = 0.3 * noise
        elif name in ("wte.weight", "wpe.weight"):
            tensor = noise * (0.6 if name == "wte.weight" else 0.3)
        else:
            # keeps the variance of its input; q and k more than that, for attention with a choice
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            tensor = noise * gain / math.sqrt(shape[1])
        weights[name] = tensor.float().to(dtype)
    return weights


def warm_state_dict(config: GPTConfig, seed: int = 0, hot: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Hot weights, float32, with the attention and the residual stream of an ordinary GPT-2.

    Sharp attention multiplies rounding: what bfloat16 loses is judged on these (see bench/contenders/verify.py).

    Args:
        hot: float32 weights of `hot_state_dict` and this seed, to change in place: those of gpt2 take 8 s to draw
    """
    narrower = 1.0 / math.sqrt(2 * config.n_layer)
    weights = hot_state_dict(config, seed, torch.float32) if hot is None else hot
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor.mul_(0.5)  # hot ones are drawn twice as wide as keeps the variance
        elif name.endswith("c_proj.weight"):
            tensor.mul_(narrower)
    return weights


def random_batch(config: GPTConfig, B: int, T: int, seed: int = 0, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    """Random ids and targets, both (B, T) int64, of which about the share `ignored` of the targets is -1.

    At least one target counts.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (B, T), generator=generator)
    targets = torch.randint(config.vocab_size, (B, T), generator=generator)
    masked = torch.rand((B, T), generator=generator) < ignored
    masked[0, -1] = False
    return ids, targets.masked_fill(masked, -1)
