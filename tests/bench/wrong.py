"""Contenders that are wrong on purpose, and the rows that put them into the table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bench.contenders import Contender, Weights, loaded
from reference import GPT, GPTConfig, build_step
from reference.gpt import MLP


class ErfMLP(MLP):
    """The exact GELU, with which GPT-2 was not trained: logits move by about 1e-4."""

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(nn.functional.gelu(self.c_fc(x))))


def build_erf(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    model = GPT(config)
    for block in model.h:
        block.mlp = ErfMLP(config)
    return loaded(model, weights, device, dtype)


class NaNGPT(GPT):
    """One logit of all is not a number."""

    def forward(self, ids: Tensor) -> Tensor:
        planted = torch.zeros_like(logits := super().forward(ids))
        planted[0, -1, 0] = math.nan
        return logits + planted


def build_nan(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return loaded(NaNGPT(config), weights, device, dtype)


def build_reference(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return loaded(GPT(config), weights, device, dtype)


def step_without_decay(model: nn.Module, **settings: Any) -> Any:
    return build_step(model, **{**settings, "weight_decay": 0.0})


ERF = Contender("with the erf GELU", build_erf, build_step)
NAN = Contender("with a NaN", build_nan, build_step)
NO_DECAY = Contender("whose optimizer forgets the decay", build_reference, step_without_decay)
