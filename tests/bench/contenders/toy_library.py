"""A made-up library's GPT-2, in the form of a contender's file: matrices are (in, out), and names are its own.

It runs the readable GPT on its own tensors, so it is right if `places` is. Tests make it wrong or another function by
`WITHOUT` and by wrong places.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.contenders.contender import Weights
from bench.contenders.library import Place, Places, laid_out
from reference import GPT, GPTConfig, generate
from reference.checkpoints.huggingface import canonical_shapes

WITHOUT: list[str] = []  # endings of canonical names that the library lacks


def right(config: GPTConfig) -> dict[str, Place]:
    """The correct places."""
    return {
        name: Place(f"kept.{own_name(name)}", shape[::-1] if is_kernel(name) else shape, is_kernel(name))
        for name, shape in canonical_shapes(config).items()
        if not name.endswith(tuple(WITHOUT))
    }


def own_name(name: str) -> str:
    """A name that does not show whether a tensor is a norm or a bias."""
    return name.replace("ln_", "n").replace("weight", "w").replace("bias", "b").replace(".", "/")


def is_kernel(name: str) -> bool:
    return name.endswith("weight") and ("attn" in name or "mlp" in name)


class Toy(nn.Module):
    """The library's module; it also has a bias of the logits, which GPT-2 lacks."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config, self.gpt = config, (GPT(config).eval(),)  # in a tuple: its module's eval() does not reach it
        first = laid_out(self.gpt[0].state_dict(), right(config))
        self.kept = nn.ParameterDict({name.removeprefix("kept."): tensor.clone() for name, tensor in first.items()})
        self.shift = nn.Parameter(torch.ones(config.vocab_size))

    def forward(self, ids: Tensor) -> Tensor:
        shapes, own = canonical_shapes(self.config), dict(self.named_parameters())
        tensors = {n: self.shift.new_zeros(s) for n, s in shapes.items()}
        tensors |= {n: place.ours(own[place.name], shapes[n]) for n, place in right(self.config).items()}
        logits: Tensor = functional_call(self.gpt[0].to(self.shift.dtype), tensors, (ids,))
        return logits + self.shift


def build(config: GPTConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    return Toy(config)


def places(config: GPTConfig) -> Places:
    return right(config)


def swapped(config: GPTConfig) -> Places:
    """Swap q and k, which have the same shape."""
    found = right(config)
    found["h.0.attn.q_proj.weight"], found["h.0.attn.k_proj.weight"] = (
        found["h.0.attn.k_proj.weight"],
        found["h.0.attn.q_proj.weight"],
    )
    return found


def untransposed(config: GPTConfig) -> Places:
    """Take a square matrix for (out, in), which its shape cannot show."""
    found = right(config)
    found["h.1.attn.c_proj.weight"] = replace(found["h.1.attn.c_proj.weight"], transposed=False)
    return found


def forgotten(config: GPTConfig) -> Places:
    """Leave out one bias."""
    return {name: place for name, place in right(config).items() if name != "h.0.mlp.c_proj.bias"}


def layout(weights: Weights, config: GPTConfig) -> Weights:
    return {**laid_out(weights, places(config)), "shift": weights["wte.weight"].new_zeros(config.vocab_size)}


def unlike(config: GPTConfig) -> str:
    return "its norms have no shift" if config.bias and WITHOUT else ""


def write(module: nn.Module, ids: Tensor, new: int) -> Tensor:
    return generate(module, ids, new, temperature=0.0)
