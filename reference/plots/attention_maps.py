"""Attention weights of every head."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.gpt import GPT
from reference.ids import check_ids
from reference.training.evaluation import evaluating


@torch.no_grad()
def attention_maps(model: GPT, ids: Tensor) -> Tensor:
    """The attention weights of every head while the model reads one text, without dropout.

    Args:
        ids: (1, T) int64, T at most block_size

    Returns (n_layer, n_head, T, T): row t says how much position t takes from each position. A row sums to 1 and is
    exactly zero after column t.
    """
    check_ids(ids, model.config)
    with evaluating(model):
        x = model.wte(ids) + model.wpe(torch.arange(ids.shape[1], device=ids.device))  # (1, T, C)
        maps = []
        for block in model.h:
            maps.append(block.attn.weights(block.ln_1(x))[0])  # type: ignore[operator, union-attr] # (H, T, T)
            x = block(x)
    return torch.stack(maps)
