"""Hugging Face's GPT-2 as a contender: each kind of attention, with and without bfloat16 and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from bench.contenders.contender import Build, Contender, UsesBfloat16, Weights, always, loaded, never, where_it_pays
from bench.contenders.torch_step import build_library_step
from reference import GPTConfig


def built(attention: str, compiled: bool = False) -> Build:
    """transformers' GPT-2 with attention "eager" or "sdpa", optionally with the whole model compiled."""

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from bench.contenders.huggingface_model import HuggingFaceGPT

        model = HuggingFaceGPT(config, attention, draw=weights is None)
        if compiled:
            model.compile_forward()
        return loaded(model, weights, device, dtype)

    return build


def step(model: nn.Module, fused: bool = False, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step with `torch.optim.AdamW` and `clip_grad_norm_`."""
    return build_library_step(model, fused=fused, **settings)


def write(model: Any, ids: Tensor, new: int) -> Tensor:
    """Generate by transformers, with its cache."""
    from bench.contenders.huggingface_model import greedy

    return greedy(model, ids, new)


def row(what: str, build: Build, uses_bfloat16: UsesBfloat16 = never, fused: bool = False) -> Contender:
    """A variant of transformers' GPT-2 as a contender."""
    description, module = f"transformers' GPT2LMHeadModel, {what}", resolve_name(".huggingface_model", __package__)
    return Contender(description, build, partial(step, fused=fused), write, uses_bfloat16=uses_bfloat16, module=module)


ROWS: dict[str, Contender] = {
    "huggingface-eager": row("explicit attention, torch's AdamW", built("eager")),
    "huggingface-sdpa": row("torch's fused attention and AdamW", built("sdpa")),
    "huggingface-bf16": row("sdpa, bfloat16, torch's AdamW", built("sdpa"), uses_bfloat16=always),
    "huggingface-compiled": row("sdpa, compiled, torch's fused AdamW", built("sdpa", compiled=True), fused=True),
    "huggingface-best": row(
        "sdpa, compiled, torch's fused AdamW, bfloat16 where it pays",
        built("sdpa", compiled=True),
        uses_bfloat16=where_it_pays,
        fused=True,
    ),
}
