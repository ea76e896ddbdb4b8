"""The seam of the projections: a norm's output (B, T, C) -> q, k, v, each (B, H, T, D).

    SeparateQKV   three matrices, as the reference has them
    FusedQKV      one matrix of three times the height: one product that reads x once

Whatever they hold themselves, the attention that has one as `qkv` shows the canonical `q_proj`, `k_proj` and `v_proj`
in its state dict: `translate` sees to that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reference.config import GPTConfig

NAMES = ("q_proj", "k_proj", "v_proj")


class SeparateQKV(nn.Module):
    """Three projections and the split over heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        for name in NAMES:
            self.add_module(name, nn.Linear(config.n_embd, config.n_embd, bias=config.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        q, k, v = (getattr(self, name)(x).view(heads).transpose(1, 2) for name in NAMES)  # (B, H, T, D)
        return q, k, v

    def to_canonical(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Own tensors by own names -> canonical ones."""
        return own

    def from_canonical(self, canonical: dict[str, Tensor]) -> dict[str, Tensor]:
        """The other way."""
        return canonical


class FusedQKV(nn.Module):
    """One projection to 3C, its thirds being q, k and v.

    It loses where the product is so small that splitting its output costs more than two more calls.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, C = x.shape
        fused = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = fused.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        return q, k, v

    def to_canonical(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """`c_attn.weight` (3C, C) -> `q_proj.weight` and so on (C, C); biases likewise."""
        return {
            name.replace("c_attn", part): third
            for name, fused in own.items()
            for part, third in zip(NAMES, fused.chunk(3), strict=True)
        }

    def from_canonical(self, canonical: dict[str, Tensor]) -> dict[str, Tensor]:
        """The other way; a kind of which not all three are there is left as it is, for strict loading to name."""
        out = dict(canonical)
        for kind in ("weight", "bias"):
            names = [f"{part}.{kind}" for part in NAMES]
            if all(name in out for name in names):
                out[f"c_attn.{kind}"] = torch.cat([out.pop(name) for name in names])
        return out


def translate(attention: nn.Module) -> None:
    """Make an attention save and load its `qkv` under the canonical names."""

    def save(module: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        inner = f"{prefix}qkv."
        own = {name.removeprefix(inner): state.pop(name) for name in list(state) if name.startswith(inner)}
        state.update({prefix + name: tensor for name, tensor in module.qkv.to_canonical(own).items()})

    def load(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        outer = tuple(f"{prefix}{name}." for name in NAMES)
        canonical = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(outer)}
        own = module.qkv.from_canonical(canonical)
        state.update({f"{prefix}qkv.{name}": tensor for name, tensor in own.items()})

    attention.register_state_dict_post_hook(save)  # type: ignore[no-untyped-call]
    attention.register_load_state_dict_pre_hook(load)  # type: ignore[no-untyped-call]
