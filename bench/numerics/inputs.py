"""Random weights and batches for comparisons: no parameter is zero, one or symmetric.

GPT-2's initialisation hides bugs: with zero biases and unit gains a dropped bias or two swapped LayerNorms change
nothing, and with weights of 0.02 attention is nearly uniform. Here every parameter is random.

    sharp     q and k large enough for attention to choose; float64 and float32 are judged on these
    typical   q, k and the residual stream as in an ordinary GPT-2; bfloat16 is judged on these
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reference.checkpoints.huggingface import canonical_shapes
from reference.config import GPTConfig


def sharp_state_dict(config: GPTConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Sharp random weights, canonical layout.

    Args:
        seed: the same seed gives the same weights
        dtype: of the result; values are drawn in float64 and rounded to float32 first, so that both hold them exactly
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
            # keeps the variance of its input; q and k double its standard deviation, for sharp attention
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            tensor = noise * gain / math.sqrt(shape[1])
        weights[name] = tensor.float().to(dtype)
    return weights


def typical_state_dict(config: GPTConfig, seed: int = 0, sharp: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Typical random weights, float32, canonical layout.

    Sharp attention multiplies rounding, so bfloat16 is judged on these (see bench/contenders/verify.py).

    Args:
        sharp: float32 weights of `sharp_state_dict` with this seed; changed in place. Drawing them takes 8 s for gpt2.
    """
    narrower = 1.0 / math.sqrt(2 * config.n_layer)
    weights = sharp_state_dict(config, seed, torch.float32) if sharp is None else sharp
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor.mul_(0.5)  # undoes the gain of sharp weights
        elif name.endswith("c_proj.weight"):
            tensor.mul_(narrower)
    return weights


def random_batch(config: GPTConfig, B: int, T: int, seed: int = 0, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    """Random ids and targets, both (B, T) int64; about the fraction `ignored` of the targets is -1, never all."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (B, T), generator=generator)
    targets = torch.randint(config.vocab_size, (B, T), generator=generator)
    masked = torch.rand((B, T), generator=generator) < ignored
    masked[0, -1] = False
    return ids, targets.masked_fill(masked, -1)
