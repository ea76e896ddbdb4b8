"""Who is compared: one table, a row for each.

To add a contender, write a function that builds it and add its row to `CONTENDERS`; everything else reads the table.
What it builds follows the protocol of this project: `model(ids) -> logits`, `model.loss(ids, targets) -> scalar`, and a
state dict in the canonical layout, by which it is proven before it is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.parity import BuildStep
from reference import GPT, GPTConfig, build_step

Weights = dict[str, Tensor]
Build = Callable[[GPTConfig, Weights | None, torch.device, torch.dtype], nn.Module]


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    description: str
    build: Build  # from (config, canonical weights or None for its own, device, dtype of the weights)
    build_step: BuildStep  # a whole training step of that model: forward, backward, clip at 1.0, AdamW
    module: str | None = None  # to be imported before it is built, and where it may be missing


def build_reference(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """This project's readable GPT."""
    return loaded(GPT(config), weights, device, dtype)


def build_huggingface(attention: str) -> Build:
    """Hugging Face's GPT-2 with one of its kinds of attention, "eager" or "sdpa"."""

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from bench.huggingface import HuggingFaceGPT

        return loaded(HuggingFaceGPT(config, attention), weights, device, dtype)

    return build


def library_step(model: nn.Module, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step by `torch.optim.AdamW` and `clip_grad_norm_`, for models of transformers."""
    from bench.huggingface import build_library_step

    return build_library_step(model, **settings)


def loaded(model: nn.Module, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model moved to its device and precision, with the weights if there are any."""
    model = model.to(device=device, dtype=dtype)
    if weights is not None:
        model.load_state_dict(weights)
    return model


CONTENDERS: dict[str, Contender] = {
    "reference": Contender("the readable GPT of this project", build_reference, build_step),
    "huggingface-eager": Contender(
        "transformers' GPT2LMHeadModel, explicit attention, torch's AdamW",
        build_huggingface("eager"),
        library_step,
        module="bench.huggingface",
    ),
    "huggingface-sdpa": Contender(
        "transformers' GPT2LMHeadModel, torch's fused attention and AdamW",
        build_huggingface("sdpa"),
        library_step,
        module="bench.huggingface",
    ),
}


class Autocast(nn.Module):
    """A float32 model that computes in bfloat16 where `torch.autocast` thinks it safe; the weights stay float32.

    The context is opened for each call and closed before the backward pass. Left open over several steps it would go
    on using the bfloat16 copies of weights that the optimizer has changed meanwhile.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.kind = model, device.type

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V), bfloat16."""
        with torch.autocast(self.kind, torch.bfloat16):
            logits: Tensor = self.model(ids)
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, a scalar."""
        with torch.autocast(self.kind, torch.bfloat16):
            loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return loss

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the model itself."""
        return self.model.state_dict(*args, **kwargs)


def build_in(precision: str, name: str, config: GPTConfig, weights: Weights | None, device: torch.device) -> nn.Module:
    """A contender by name, ready to compute in a precision: float64, float32, or bfloat16 by autocast."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    model = CONTENDERS[name].build(config, weights, device, dtype)
    return Autocast(model, device) if precision == "bfloat16" else model


def chosen(names: Sequence[str]) -> list[str]:
    """The names that a user asks for, all if none; a ValueError for one that is unknown or there twice."""
    for number, name in enumerate(names):
        if name not in CONTENDERS:
            raise ValueError(f"unknown contender {name!r}: give some of {', '.join(CONTENDERS)}")
        if name in names[:number]:
            raise ValueError(f"contender {name!r} is named twice: give each once")
    return list(names or CONTENDERS)


def import_what_is_needed(name: str) -> None:
    """Import a contender's module; a ValueError that says what to install where it cannot be."""
    module = CONTENDERS[name].module
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{name!r} needs the package {error.name!r}, which is not installed: pip install {error.name}"
        ) from None
