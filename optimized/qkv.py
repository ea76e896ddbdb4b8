"""The qkv slot: a norm's output (B, T, C) -> q, k, v, each (B, H, T, D).

    SeparateQKV   three matrices, as in the reference
    FusedQKV      one matrix of three times the height: one product that reads x once

Both save and load the canonical `q_proj`, `k_proj` and `v_proj`, by the state-dict hooks of `translate`.
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
        """Own tensors by own names -> canonical tensors by canonical names."""
        return own

    def from_canonical(self, canonical: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_canonical`."""
        return canonical


class FusedQKV(nn.Module):
    """One projection to 3C, whose thirds are q, k and v.

    Slower if the product is so small that splitting its output costs more than two more calls.
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
            name.replace("c_attn", part): fused.chunk(3)[third]
            for third, part in enumerate(NAMES)
            for name, fused in own.items()
        }

    def from_canonical(self, canonical: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_canonical`."""
        kinds = [name for name, _ in self.c_attn.named_parameters()]
        return {f"c_attn.{kind}": torch.cat([canonical[f"{part}.{kind}"] for part in NAMES]) for kind in kinds}


def translate(attention: nn.Module) -> None:
    """Make an attention save and load its `qkv` under the canonical names."""

    def save(module: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        inner = f"{prefix}qkv."
        entries = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
        own = {name.removeprefix(inner): entries.pop(name) for name in list(entries) if name.startswith(inner)}
        state.update({prefix + name: tensor for name, tensor in module.qkv.to_canonical(own).items()})
        state.update(entries)  # after them, in the reference's order

    def load(module: Any, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # After joining, a missing or misshapen tensor would have no name, and may even fit: q of twice the height with
        # k and v of half. So errors go to strict loading here, and the present weights stand in for faulty tensors.
        *_, missing, unexpected, errors = rest
        present = module.qkv.to_canonical({name: p.detach() for name, p in module.qkv.named_parameters()})
        outer = tuple(f"{prefix}{name}." for name in (*NAMES, "qkv"))
        given = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(outer)}
        missing += [prefix + name for name in present if name not in given]
        unexpected += [prefix + name for name in given if name not in present]
        for name, tensor in present.items():
            if name in given and given[name].shape != tensor.shape:
                errors.append(
                    f"size mismatch for {prefix}{name}: copying a param with shape {given[name].shape} from "
                    f"checkpoint, the shape in current model is {tensor.shape}."
                )
            elif name in given:
                present[name] = given[name]
        own = module.qkv.from_canonical(present)
        state.update({f"{prefix}qkv.{name}": tensor for name, tensor in own.items()})

    attention.register_state_dict_post_hook(save)  # type: ignore[no-untyped-call]
    attention.register_load_state_dict_pre_hook(load)  # type: ignore[no-untyped-call]
