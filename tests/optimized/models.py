"""Small models with distinct weights, none of them zero or one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.numerics.inputs import sharp_state_dict
from optimized import Recipe, build
from optimized.gpt import GPT
from reference import GPT as ReferenceGPT
from reference import GPTConfig

SMALL = GPTConfig(block_size=24, vocab_size=101, n_layer=2, n_head=3, n_embd=24)


def sharp_model(
    recipe: Recipe,
    config: GPTConfig = SMALL,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> GPT:
    """A model of a recipe in train mode; float32 if the recipe has bf16 or tf32, else float64, unless given."""
    if dtype is None:
        dtype = torch.float32 if "bf16" in recipe or "tf32" in recipe else torch.float64
    return build(config, recipe, sharp_state_dict(config, seed), device, dtype)


def sharp_reference(config: GPTConfig = SMALL, dtype: torch.dtype = torch.float64, seed: int = 0) -> ReferenceGPT:
    """The readable model with the same weights."""
    with torch.random.fork_rng(devices=[]):
        model = ReferenceGPT(config).to(dtype)
    model.load_state_dict(sharp_state_dict(config, seed))
    return model


def gradients_of(loss: Tensor, model: Any) -> dict[str, Tensor]:
    """Gradients by the model's own parameter names; the model is left without any."""
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance in float64; infinite if anything is not finite."""
    assert actual.shape == expected.shape, f"shapes {tuple(actual.shape)} and {tuple(expected.shape)}"
    a, b = actual.detach().double().cpu(), expected.detach().double().cpu()
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    difference = float((a - b).norm())
    return difference / float(b.norm()) if difference else 0.0
