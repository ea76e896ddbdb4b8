"""The fast GPT-2, top to bottom. builder.py fills its slots; nothing is chosen here.

B batch, T time, C width, H heads, D head width, V vocabulary, as in reference/gpt.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimized.embedding import ExactTable
from optimized.precision import Exact
from optimized.qkv import translate
from optimized.recipe import Recipe
from reference.config import GPTConfig
from reference.ids import check_shape

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (B, H, T, D) of new tokens -> (B, H, T, D)


@dataclass(frozen=True)
class ModelParts:
    """The implementation of each slot of the model."""

    qkv: Callable[[GPTConfig], nn.Module]
    attention: Callable[[GPTConfig], nn.Module]
    norm: Callable[[GPTConfig], nn.Module]
    mlp: Callable[[GPTConfig], nn.Module]
    embedding: Callable[[GPTConfig], ExactTable]
    loss: Callable[[Tensor, ExactTable, Tensor], Tensor]
    run: Callable[[nn.Module, Tensor], Tensor]  # block, x -> block(x)
    precision: Exact
    stream: Callable[..., Iterator[Tensor]]  # as reference.sampling.stream


class Attention(nn.Module):
    """Project, attend, project back."""

    def __init__(self, config: GPTConfig, parts: ModelParts) -> None:
        super().__init__()
        self.qkv = parts.qkv(config)
        self.attention = parts.attention(config)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        translate(self)

    def forward(self, x: Tensor, cached: Attend | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C); `cached` attends to earlier tokens as well, in place of the slot's attention."""
        q, k, v = self.qkv(x)  # (B, H, T, D) each
        y = self.attention(q, k, v) if cached is None else cached(q, k, v)
        return self.dropout(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C), the heads side by side again


class Block(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream."""

    def __init__(self, config: GPTConfig, parts: ModelParts) -> None:
        super().__init__()
        self.ln_1 = parts.norm(config)
        self.attn = Attention(config, parts)
        self.ln_2 = parts.norm(config)
        self.mlp = parts.mlp(config)

    def forward(self, x: Tensor, cached: Attend | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C); `cached` as in `Attention.forward`."""
        x = x + self.attn(self.ln_1(x), cached)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """GPT-2 of a recipe; made by `optimized.build`, which also loads the weights.

    Its state dict is that of `reference.GPT`, for every recipe.
    """

    recipe: Recipe

    def __init__(self, config: GPTConfig, parts: ModelParts) -> None:
        super().__init__()
        self.config = config
        self.wte = parts.embedding(config)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, parts) for _ in range(config.n_layer))
        self.ln_f = parts.norm(config)
        self.run, self.head_loss, self.precision, self.stream = parts.run, parts.loss, parts.precision, parts.stream

    def hidden(self, ids: Tensor) -> Tensor:
        """The residual stream after the final norm: ids (B, T) -> (B, T, C)."""
        check_shape(ids, self.config)  # not the values: that would wait for the device
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.dropout(self.wte(ids) + self.wpe(positions))
        for block in self.h:
            x = self.run(block, x)
        return self.ln_f(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next token: ids (B, T) int64 -> (B, T, V), in the precision of the products.

        Reads no id's value, as `reference.GPT.forward`: in every recipe an id outside [0, V) raises torch's IndexError
        on the CPU and fails a device assertion elsewhere. Check ids from outside by `reference.ids.check_ids`.
        """
        with self.precision.forward():
            return self.wte.logits(self.hidden(ids))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets (B, T) that are not -1, a scalar, in float32 at least.

        Reads no values either: a target outside [0, V) other than -1 raises torch's RuntimeError on the CPU.
        """
        with self.precision.forward():
            return self.head_loss(self.hidden(ids), self.wte, targets)
