"""A layout as a list of rules, one for each tensor of a layer: which of our tensors it holds, and how its axes lie.

Rules are written once for all layers and heads ("h.{i}.attn.{h}.query.weight"), so they hold for every size. They are
applied to our state dict, inverted on another, and printed as Python (layout_code.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.weights.axes import Sizes, rearrange, shape_of, sizes_of
from reference.config import GPTConfig

Weights = dict[str, Tensor]

# Our tensors, with the arrangement of each.
OURS = {
    "wte.weight": "v c",
    "wpe.weight": "t c",
    "h.{i}.ln_1.weight": "c",
    "h.{i}.ln_1.bias": "c",
    **{f"h.{{i}}.attn.{letter}_proj.weight": "(h d) c" for letter in "qkv"},
    **{f"h.{{i}}.attn.{letter}_proj.bias": "(h d)" for letter in "qkv"},
    "h.{i}.attn.c_proj.weight": "c (h d)",
    "h.{i}.attn.c_proj.bias": "c",
    "h.{i}.ln_2.weight": "c",
    "h.{i}.ln_2.bias": "c",
    "h.{i}.mlp.c_fc.weight": "f c",
    "h.{i}.mlp.c_fc.bias": "f",
    "h.{i}.mlp.c_proj.weight": "c f",
    "h.{i}.mlp.c_proj.bias": "c",
    "ln_f.weight": "c",
    "ln_f.bias": "c",
}


@dataclass(frozen=True)
class Rule:
    """One tensor of a layout, in every layer and head.

    Args:
        own: its name, with {i} for the layer and {h} for the head
        ours: the names of ours that it holds: one; q, k and v; or none, for a tensor of zeros
        axes: its arrangement (axes.py); with {h} in its name, of one head
    """

    own: str
    ours: tuple[str, ...]
    axes: str

    @property
    def per_head(self) -> bool:
        """Whether each head has a tensor of its own."""
        return "{h}" in self.own

    @property
    def whole(self) -> str:
        """The arrangement of what is taken from ours: all heads, and q, k and v stacked."""
        (source,) = {OURS[name] for name in self.ours}
        return f"s {source}" if len(self.ours) == 3 else source

    def places(self, config: GPTConfig) -> Iterator[tuple[str, int, int]]:
        """Its names with the layer and head of each."""
        for i in range(config.n_layer if "{i}" in self.own else 1):
            for h in range(config.n_head if self.per_head else 1):
                yield self.own.format(i=i, h=h), i, h

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Its shape."""
        return shape_of(self.axes, sizes)


def apply(rules: Sequence[Rule], weights: Mapping[str, Tensor], config: GPTConfig) -> Weights:
    """Our state dict in the layout; a bias that we do not have, under bias=False, is zero."""
    sizes, out = sizes_of(config), {}
    like = weights["wte.weight"]
    for rule in rules:
        for own, i, h in rule.places(config):
            sources = [name.format(i=i) for name in rule.ours]
            if not sources or (sources[0] not in weights and sources[0].endswith("bias")):
                out[own] = like.new_zeros(rule.shape(sizes))
            else:
                taken = [weights[source] for source in sources]
                whole = torch.stack(taken) if len(taken) == 3 else taken[0]
                if rule.per_head:
                    whole, axes = rearrange(whole, rule.whole, f"h {first_axes(rule.whole)}", sizes)[h], rule.axes
                    out[own] = rearrange(whole, first_axes(rule.whole), axes, sizes)
                else:
                    out[own] = rearrange(whole, rule.whole, rule.axes, sizes)
    return out


def first_axes(whole: str) -> str:
    """The arrangement of one head of q, k or v.

    >>> first_axes("(h d) c")
    'd c'
    """
    return whole.replace("(h d)", "d")


def canonical_tensor(rule: Rule, name: str, own: Mapping[str, Tensor], config: GPTConfig, i: int) -> Tensor:
    """One of our tensors from a layout's: the inverse of `apply` for `rule`, which holds `name` in layer `i`."""
    sizes = sizes_of(config)
    if rule.per_head:
        one = first_axes(rule.whole)
        heads = [rearrange(own[rule.own.format(i=i, h=h)], rule.axes, one, sizes) for h in range(config.n_head)]
        return torch.cat(heads)
    whole = rearrange(own[rule.own.format(i=i)], rule.axes, rule.whole, sizes)
    return whole[rule.ours.index(name)] if len(rule.ours) == 3 else whole
