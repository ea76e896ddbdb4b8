"""The reference step by step: every activation has a name, and every step can be replaced.

`traced_forward` computes what `reference.GPT` computes, from its functions and a canonical state dict. A `Watch` sees
each activation when it is computed. A `Change` replaces a step, or weights, in all blocks or in some: this is how a
known mistake is made on purpose, to see whether it reproduces a candidate's output.

Shapes: B batch, T time, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reference.config import GPTConfig
from reference.functional import gelu, layer_norm, softmax

Weights = Mapping[str, Tensor]
Watch = Callable[[str, Tensor], Tensor]  # name, activation -> the activation to continue with


@dataclass(frozen=True)
class At:
    """The place of a step."""

    config: GPTConfig
    block: int  # -1 before the first block, n_layer after the last


@dataclass(frozen=True)
class Node:
    """One named activation of the forward pass."""

    title: str  # in words
    form: str  # stream (B, T, C), wide (B, T, 4C), heads (B, H, T, D), square (B, H, T, T), positions, logits
    parents: tuple[str, ...]  # its inputs; "x" is the stream that enters the block


BEFORE = {
    "tokens": Node("token embedding", "stream", ()),
    "positions": Node("position embedding", "positions", ()),
    "embedding": Node("embedding (tokens + positions)", "stream", ("tokens", "positions")),
}
BLOCK = {
    "ln_1": Node("norm before attention", "stream", ("x",)),
    "q": Node("q", "heads", ("ln_1",)),
    "k": Node("k", "heads", ("ln_1",)),
    "v": Node("v", "heads", ("ln_1",)),
    "scores": Node("scores", "square", ("q", "k")),
    "weights": Node("attention weights (softmax of the masked scores)", "square", ("scores",)),
    "attention": Node("attention output (weights times v)", "heads", ("weights", "v")),
    "joined": Node("attention output with the heads joined", "stream", ("attention",)),
    "projection": Node("output projection of the attention", "stream", ("joined",)),
    "residual_1": Node("residual stream after the attention", "stream", ("projection", "x")),
    "ln_2": Node("norm before the MLP", "stream", ("residual_1",)),
    "c_fc": Node("MLP, first layer", "wide", ("ln_2",)),
    "gelu": Node("MLP, GELU", "wide", ("c_fc",)),
    "mlp": Node("MLP, second layer", "stream", ("gelu",)),
    "residual_2": Node("residual stream after the MLP", "stream", ("mlp", "residual_1")),
}
AFTER = {
    "ln_f": Node("norm after the last block", "stream", ("x",)),
    "logits": Node("logits", "logits", ("ln_f",)),
}


def nodes(config: GPTConfig) -> dict[str, Node]:
    """Every activation in order of execution ("tokens", "h.0.ln_1", ...), with the full names of its parents."""
    found, x = dict(BEFORE), "embedding"
    for i in range(config.n_layer):
        for name, node in BLOCK.items():
            parents = tuple(x if parent == "x" else f"h.{i}.{parent}" for parent in node.parents)
            found[f"h.{i}.{name}"] = Node(f"{node.title}, block {i}", node.form, parents)
        x = f"h.{i}.residual_2"
    found["ln_f"] = Node(AFTER["ln_f"].title, "stream", (x,))
    found["logits"] = AFTER["logits"]
    return found


def split_heads(x: Tensor, at: At) -> Tensor:
    """(B, T, C) -> (B, H, T, D)."""
    B, T, C = x.shape
    return x.view(B, T, at.config.n_head, C // at.config.n_head).transpose(1, 2)


def scaled_product(q: Tensor, k: Tensor, at: At) -> Tensor:
    """Scores before the mask, (B, H, T, T)."""
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def future(T: int, device: torch.device, first: int = 1) -> Tensor:
    """True where the key is `first` or more positions later than the query, (T, T)."""
    return torch.ones(T, T, dtype=torch.bool, device=device).triu(diagonal=first)


def causal_mask(scores: Tensor, at: At) -> Tensor:
    """Scores of which those of later keys are -inf, (B, H, T, T)."""
    return scores.masked_fill(future(scores.shape[-1], scores.device), -math.inf)


def join_heads(y: Tensor, at: At) -> Tensor:
    """(B, H, T, D) -> (B, T, C)."""
    B, H, T, D = y.shape
    return y.transpose(1, 2).reshape(B, T, H * D)


Step = Callable[[Tensor], Tensor]


def pre_norm(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
    """A block: attention and MLP are each added to the stream."""
    x = watch("residual_1", x + attention(ln_1(x)))
    return watch("residual_2", x + mlp(ln_2(x)))


@dataclass(frozen=True)
class Change:
    """Replacements of some steps; each default is GPT-2's step."""

    positions: Callable[[int, At], Tensor] = lambda T, at: torch.arange(T)
    embed: Callable[[Tensor, Tensor, At], Tensor] = lambda tokens, positions, at: tokens + positions
    norm: Callable[[Tensor, Tensor, Tensor | None, At], Tensor] = lambda x, w, b, at: layer_norm(x, w, b)
    split: Callable[[Tensor, At], Tensor] = split_heads
    q_and_k: Callable[[Tensor, At], Tensor] = lambda x, at: x  # each of them before the product
    product: Callable[[Tensor, Tensor, At], Tensor] = scaled_product
    bias: Callable[[Tensor, At], Tensor] = lambda scores, at: scores
    mask: Callable[[Tensor, At], Tensor] = causal_mask
    softmax: Callable[[Tensor, At], Tensor] = lambda scores, at: softmax(scores)
    join: Callable[[Tensor, At], Tensor] = join_heads
    gelu: Callable[[Tensor, At], Tensor] = lambda x, at: gelu(x)
    block: Callable[[Tensor, Step, Step, Step, Step, Watch], Tensor] = pre_norm
    end: Callable[[Tensor, At], Tensor] = lambda x, at: x  # the stream after a block
    final: Callable[[Tensor, Step], Tensor] = lambda x, norm: norm(x)
    head: Callable[[Tensor, Tensor, At], Tensor] = lambda x, table, at: x @ table.T
    # of a block's weights by their names within it
    weights: Callable[[dict[str, Tensor], At], dict[str, Tensor]] = lambda own, at: own


GPT2 = Change()
Changes = Sequence[tuple[Change, Collection[int] | None]]  # each with its blocks; None for all


class SameStep(ValueError):
    """Two changes replace the same step of a block."""


def combined(changes: Changes, block: int) -> Change:
    """All changes of one block in one. Weights are changed one after the other; raises SameStep for another step."""
    here = [change for change, blocks in changes if blocks is None or block in blocks]
    if len(here) < 2:
        return here[0] if here else GPT2
    own: dict[str, Any] = {}
    for part in fields(Change):
        given = [way for change in here if (way := getattr(change, part.name)) is not getattr(GPT2, part.name)]
        if part.name == "weights" and given:
            own["weights"] = in_turn(given)
        elif len(given) > 1:
            raise SameStep(part.name)
        elif given:
            own[part.name] = given[0]
    return Change(**own)


def in_turn(ways: list[Callable[[dict[str, Tensor], At], dict[str, Tensor]]]) -> Any:
    """Changes of weights, one after the other."""

    def weights(own: dict[str, Tensor], at: At) -> dict[str, Tensor]:
        for way in ways:
            own = way(own, at)
        return own

    return weights


def linear(x: Tensor, own: Weights, name: str) -> Tensor:
    """x W^T + b."""
    return F.linear(x, own[f"{name}.weight"], own.get(f"{name}.bias"))


def traced_forward(
    config: GPTConfig,
    weights: Weights,
    ids: Tensor,
    change: Change | Changes = GPT2,
    blocks: Collection[int] | None = None,
    watch: Watch = lambda name, x: x,
    begin: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Logits (B, T, V) of ids (B, T).

    Args:
        weights: canonical
        change: the replaced steps; or several changes, each with its blocks
        blocks: where they are replaced; None for everywhere; n_layer for the steps after the last block
        watch: called with each activation of `nodes`, by name; its result replaces the activation
        begin: a block, n_layer for the steps after the last, and the stream (B, T, C) that enters it: nothing before it
            is computed

    Raises SameStep if two changes replace the same step.
    """
    changes = [(change, blocks)] if isinstance(change, Change) else change

    def way(block: int) -> Change:
        return combined(changes, block)

    start, end = At(config, -1), At(config, config.n_layer)
    if begin is None:
        tokens = watch("tokens", F.embedding(ids, weights["wte.weight"]))
        index = way(-1).positions(ids.shape[1], start).to(ids.device)
        positions = watch("positions", F.embedding(index, weights["wpe.weight"]))
        begin = 0, watch("embedding", way(-1).embed(tokens, positions, start))
    first, x = begin
    for i in range(first, config.n_layer):
        prefix = f"h.{i}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        x = run_block(x, own, way(i), At(config, i), lambda name, y, p=prefix: watch(p + name, y))  # type: ignore[misc]
    last, gain, shift = way(config.n_layer), weights["ln_f.weight"], weights.get("ln_f.bias")
    x = watch("ln_f", last.final(x, lambda x: last.norm(x, gain, shift, end)))
    return watch("logits", last.head(x, weights["wte.weight"], end))


def run_block(x: Tensor, own: dict[str, Tensor], way: Change, at: At, watch: Watch) -> Tensor:
    """One block, (B, T, C) -> (B, T, C); `own` are its weights by their names within it."""
    own = way.weights(own, at)

    def norm(name: str) -> Step:
        return lambda x: watch(name, way.norm(x, own[f"{name}.weight"], own.get(f"{name}.bias"), at))

    def attention(x: Tensor) -> Tensor:
        q, k, v = (watch(n, way.split(linear(x, own, f"attn.{n}_proj"), at)) for n in "qkv")  # (B, H, T, D) each
        scores = way.bias(way.product(way.q_and_k(q, at), way.q_and_k(k, at), at), at)  # (B, H, T, T)
        weights = watch("weights", way.softmax(way.mask(watch("scores", scores), at), at))
        y = watch("joined", way.join(watch("attention", weights @ v), at))  # (B, T, C)
        return watch("projection", linear(y, own, "attn.c_proj"))

    def mlp(x: Tensor) -> Tensor:
        wide = watch("gelu", way.gelu(watch("c_fc", linear(x, own, "mlp.c_fc")), at))  # (B, T, 4C)
        return watch("mlp", linear(wide, own, "mlp.c_proj"))

    def leaving(name: str, y: Tensor) -> Tensor:
        return watch(name, way.end(y, at) if name == "residual_2" else y)

    return way.block(x, norm("ln_1"), attention, norm("ln_2"), mlp, leaving)


@dataclass
class Activations:
    """A `Watch` that keeps every activation, and its gradient in a backward pass if `gradients` is set."""

    gradients: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if self.gradients and x.requires_grad and not x.is_leaf:
            x.retain_grad()
        self.kept[name] = x
        return x
