"""GPT-2s with one mistake each, written as real code would make it.

For each suspect of `bench.candidate.known_mistakes` its mutant.

An entry is (build, layout, the first activation that is wrong, by its name in bench/candidate/traced_gpt.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.candidate.known_mistakes import MASKS
from bench.candidate.layouts import nanogpt
from reference import GPTConfig
from tests.bench.candidate.written import MLP, Attention, Block, Norm, Weights, Written, mutant

Mutant = tuple[Any, Any, str]


def activation(function: Callable[[Tensor], Tensor]) -> Mutant:
    return mutant(MLP, activate=lambda self, x: function(x)), nanogpt, "h.0.gelu"


def norm(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Mutant:
    return mutant(Norm, forward=lambda self, x: function(x, self.weight, self.bias)), nanogpt, "h.0.ln_1"


def eps(value: float) -> Mutant:
    return norm(lambda x, w, b: F.layer_norm(x, w.shape, w, b, value))


def unbiased(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5) * w + b


def eps_outside(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) ** 0.5 + 1e-5) * w + b


def annotated(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + b


def score(factor: Callable[[Any, Tensor], float], first: str = "h.0.scores") -> Mutant:
    return mutant(Attention, score=lambda self, q, k: q @ k.mT * factor(self, q)), nanogpt, first


def attention(first: str, **methods: Any) -> Mutant:
    return mutant(Attention, **methods), nanogpt, first


def masked(function: Callable[[Tensor], Tensor]) -> Mutant:
    return attention("h.0.weights", mask=lambda self, scores: function(scores))


def triangle(scores: Tensor, diagonal: int = 0) -> Tensor:
    return torch.tril(torch.ones(scores.shape[-2:]), diagonal)


def only_before(scores: Tensor) -> Tensor:
    allowed = triangle(scores, -1)
    allowed[0, 0] = 1.0
    return scores.masked_fill(allowed == 0, -math.inf)


def weights(function: Callable[[Any, Tensor], Tensor]) -> Mutant:
    return attention("h.0.weights", normalise=function)


def causal(scores: Tensor) -> Tensor:
    return scores.masked_fill(triangle(scores) == 0, -math.inf)


def with_room_for_one_more(self: Any, scores: Tensor) -> Tensor:
    e = causal(scores).exp()
    return e / (1.0 + e.sum(-1, keepdim=True))


def tiled(multiple: int) -> Mutant:
    def normalise(self: Any, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        wide = F.pad(causal(scores), (0, -(-T // multiple) * multiple - T))
        return wide.softmax(-1)[..., :T]

    return weights(normalise)


def viewed(self: Any, x: Tensor) -> Tensor:
    B, T, C = x.shape
    return x.reshape(B, self.n_head, T, C // self.n_head)


def turn_about(self: Any, x: Tensor) -> Tensor:
    B, T, C = x.shape
    return x.view(B, T, C // self.n_head, self.n_head).transpose(2, 3).transpose(1, 2)


def joined_by_view(self: Any, y: Tensor) -> Tensor:
    return y.reshape(y.shape[0], y.shape[2], -1)


def joined_by_turns(self: Any, y: Tensor) -> Tensor:
    return y.permute(0, 2, 3, 1).flatten(2)


plain_merge = Attention.merge


def scored(function: Callable[[Tensor], Tensor]) -> Mutant:
    """Scores of q and k that are changed in the same way."""
    return attention("h.0.scores", score=lambda self, q, k: function(q) @ function(k).mT / math.sqrt(q.shape[-1]))


def rotated_halves(x: Tensor) -> Tensor:
    """As in Llama: x cos + rotate_half(x) sin; the last element of a head of odd width stays."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]).double(), 10000 ** (-torch.arange(half).double() / half))
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    body = x[..., : 2 * half]
    turned = body * cos + torch.cat([-body[..., half:], body[..., :half]], -1) * sin
    return torch.cat([turned, x[..., 2 * half :]], -1)


def rotated_neighbours(x: Tensor) -> Tensor:
    """As in Llama's first code: products of complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]).double(), 10000 ** (-torch.arange(half).double() / half))
    pairs = torch.view_as_complex(x[..., : 2 * half].unflatten(-1, (half, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat([turned, x[..., 2 * half :]], -1)


def with_alibi(self: Any, scores: Tensor) -> Tensor:
    H, T = scores.shape[1], scores.shape[-1]
    slopes = torch.tensor([2 ** (-8 / H * (h + 1)) for h in range(H)], dtype=scores.dtype).view(H, 1, 1)
    distances = torch.arange(T).view(1, T) - torch.arange(T).view(T, 1)
    return causal(scores + slopes * distances)


def vaswani(T: int, C: int) -> Tensor:
    """(T, C); sine in even columns, cosine in odd ones."""
    table = torch.zeros(T, C, dtype=torch.float64)
    for t in range(T):
        for c in range(C):
            angle = t / 10000 ** ((c - c % 2) / C)
            table[t, c] = math.cos(angle) if c % 2 else math.sin(angle)
    return table


def in_halves(T: int, C: int) -> Tensor:
    """(T, C); all sines, then all cosines."""
    rates = [10000 ** (-2 * i / C) for i in range((C + 1) // 2)]
    rows = [[math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates] for t in range(T)]
    return torch.tensor(rows, dtype=torch.float64)[:, :C]


def block(first: str, function: Callable[[Any, Tensor], Tensor]) -> Mutant:
    return mutant(Block, forward=function), nanogpt, first


def normalised_stream(self: Any, x: Tensor) -> Tensor:
    x = self.ln_1(x)
    x = x + self.attn(x)
    x = self.ln_2(x)
    return x + self.mlp(x)


def post_norm(self: Any, x: Tensor) -> Tensor:
    x = self.ln_1(x + self.attn(x))
    return self.ln_2(x + self.mlp(x))


def in_parallel(self: Any, x: Tensor) -> Tensor:
    return x + self.attn(self.ln_1(x)) + self.mlp(self.ln_2(x))


def laid_out(function: Callable[[Weights, GPTConfig], Weights], first: str) -> Mutant:
    """A right model that is given wrong weights."""
    return Written, lambda state, config: nanogpt(function(dict(state), config), config), first


def parts_of(order: str) -> Mutant:
    def exchange(state: Weights, config: GPTConfig) -> Weights:
        moved = dict(state)
        for name in state:
            for to, of in zip("qkv", order, strict=True):
                if f"{to}_proj" in name:
                    moved[name] = state[name.replace(f"{to}_proj", f"{of}_proj")]
        return moved

    return laid_out(exchange, "h.0.scores")


def fused_rows(shape: Callable[[int], tuple[int, ...]], axis: int, first: str) -> Mutant:
    """A projection whose rows are split in another way than the layout joins them."""

    def parts(self: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = self.c_attn(x).view(*x.shape[:2], *shape(self.n_head))
        return tuple(part.flatten(2) for part in y.unbind(axis))

    return attention(first, parts=parts)


def transposed(*layers: str) -> Mutant:
    def turn(state: Weights, config: GPTConfig) -> Weights:
        return {n: t.T if n.endswith(tuple(f"{x}.weight" for x in layers)) else t for n, t in state.items()}

    order = {"q_proj": "h.0.q", "k_proj": "h.0.k", "v_proj": "h.0.v", "attn.c_proj": "h.0.projection"}
    return laid_out(turn, next(first for name, first in order.items() if name in layers))


def biasless(first: str, *layers: str) -> Mutant:
    def drop(state: Weights, config: GPTConfig) -> Weights:
        return {n: t * 0 if n.endswith(tuple(f"{x}.bias" for x in layers)) else t for n, t in state.items()}

    return laid_out(drop, first)


def swapped(first: str, second: str, kinds: tuple[str, ...], node: str) -> Mutant:
    def swap(state: Weights, config: GPTConfig) -> Weights:
        out = dict(state)
        for i in range(config.n_layer):
            for kind in kinds:
                a, b = f"h.{i}.{first}.{kind}", f"h.{i}.{second}.{kind}"
                out[a], out[b] = state[b], state[a]
        return out

    return laid_out(swap, node)


def model(first: str, **methods: Any) -> Mutant:
    return mutant(Written, **methods), nanogpt, first


def embedding(function: Callable[[Any, Tensor, Tensor], Tensor], first: str = "embedding") -> Mutant:
    def embed(self: Any, ids: Tensor) -> Tensor:
        return function(self, self.transformer.wte(ids), self.transformer.wpe(torch.arange(ids.shape[1])))

    return model(first, embed=embed)


def rows(function: Callable[[Any, int], Tensor]) -> Mutant:
    return model("positions", positions=function)


def result(function: Callable[[Any, Tensor], Tensor]) -> Mutant:
    return model("output", finish=lambda self, x: function(self, self.lm_head(self.transformer.ln_f(x))))


RMS = {1e-5: "", 1e-6: " (eps 1e-06)", 1e-8: " (eps 1e-08)"}
TANH, SQUARE = "attn.c_proj", ("q_proj", "k_proj", "v_proj", "attn.c_proj")

FORWARD: dict[str, Mutant] = {
    "GELU in its exact erf form": activation(F.gelu),
    "GELU in its sigmoid form, x sigmoid(1.702 x)": activation(lambda x: x / (1 + (-1.702 * x).exp())),
    "ReLU in place of GELU": activation(F.relu),
    "SiLU in place of GELU": activation(F.silu),
    "no activation in the MLP": (
        mutant(MLP, forward=lambda self, x: self.c_proj(self.c_fc(x))),
        nanogpt,
        "h.0.gelu",
    ),
    "LayerNorm with eps 0.001": eps(1e-3),
    "LayerNorm with eps 0.0001": eps(1e-4),
    "LayerNorm with eps 1e-06": eps(1e-6),
    "LayerNorm with eps 1e-08": eps(1e-8),
    "LayerNorm with eps 1e-12 or none": eps(1e-12),
    "LayerNorm with the unbiased variance (divided by C - 1)": norm(unbiased),
    "LayerNorm with eps outside the root": norm(eps_outside),
    "LayerNorm with the unbiased deviation, and eps added outside the root": norm(annotated),
    **{
        f"RMSNorm in place of LayerNorm{shown}": norm(
            lambda x, w, b, n=n: F.rms_norm(x, w.shape, w, n) + b  # type: ignore[misc]
        )
        for n, shown in RMS.items()
    },
    **{
        f"RMSNorm without a shift in place of LayerNorm{shown}": norm(
            lambda x, w, b, n=n: F.rms_norm(x, w.shape, w, n)  # type: ignore[misc]
        )
        for n, shown in RMS.items()
    },
    "LayerNorm that does not divide by the deviation": norm(lambda x, w, b: (x - x.mean(-1, True)) * w + b),
    "LayerNorm without its gain": norm(lambda x, w, b: F.layer_norm(x, w.shape, None, b)),
    "LayerNorm without its shift": norm(lambda x, w, b: F.layer_norm(x, w.shape, w, None)),
    "LayerNorm that multiplies by 1 + weight": norm(lambda x, w, b: F.layer_norm(x, w.shape, 1 + w, b)),
    "no norm after the last block": model("logits", finish=lambda self, x: self.lm_head(x)),
    "the two norms of a block exchanged": swapped("ln_1", "ln_2", ("weight", "bias"), "h.0.ln_1"),
    "scores scaled by the width of the model, not of a head": score(lambda self, q: self.c_proj.in_features**-0.5),
    "scores not scaled": score(lambda self, q: 1.0),
    "scores divided by the head's width, not its root": score(lambda self, q: 1 / q.shape[-1]),
    "scores multiplied by the root of the head's width": score(lambda self, q: q.shape[-1] ** 0.5),
    "scores scaled by the number of heads": score(lambda self, q: self.n_head**-0.5),
    "scores divided by the number of the layer too": score(
        lambda self, q: q.shape[-1] ** -0.5 / (self.layer + 1), "h.1.scores"
    ),
    "no causal mask": masked(lambda scores: scores),
    "a mask that lets each token see the next one": masked(
        lambda scores: scores.masked_fill(triangle(scores, 1) == 0, -math.inf)
    ),
    "a mask that hides each token from itself": masked(only_before),
    "the mask upside down: the past hidden, the future seen": masked(
        lambda scores: scores.masked_fill(torch.ones(scores.shape[-2:]).triu() == 0, -math.inf)
    ),
    "masked scores of 0, not -inf": masked(lambda scores: scores * triangle(scores)),
    **{
        f"a finite mask value, {shown}": masked(
            lambda scores, n=n: scores.masked_fill(triangle(scores) == 0, n)  # type: ignore[misc]
        )
        for n, shown in MASKS.items()
    },
    **{
        f"a finite mask value that is added, {shown}": masked(
            lambda scores, n=n: scores + (1 - triangle(scores)) * n  # type: ignore[misc]
        )
        for n, shown in MASKS.items()
    },
    "the mask applied after the softmax": weights(lambda self, scores: scores.softmax(-1) * triangle(scores)),
    "softmax over the queries, not the keys": weights(lambda self, scores: causal(scores).softmax(-2)),
    "softmax with one added to its denominator": weights(with_room_for_one_more),
    **{
        f"padding in the softmax: keys of zeros up to a multiple of {multiple}": tiled(multiple)
        for multiple in (8, 16, 32, 64, 128)
    },
    "heads joined without the transpose": attention("h.0.joined", merge=joined_by_view),
    "heads split without the transpose": attention("h.0.scores", split=viewed),
    "heads split and joined without the transpose": attention("h.0.scores", split=viewed, merge=joined_by_view),
    "heads interleaved: view(B, T, D, H) when splitting": attention("h.0.scores", split=turn_about),
    "heads interleaved: the elements of all heads side by side when joining": attention(
        "h.0.joined", merge=joined_by_turns
    ),
    "heads joined in reverse order": attention("h.0.joined", merge=lambda self, y: plain_merge(self, y.flip(1))),
    "rotary positions in q and k (RoPE, pairs of halves of a head)": scored(rotated_halves),
    "rotary positions in q and k (RoPE, pairs of neighbours)": scored(rotated_neighbours),
    "linear biases of the distance in the scores (ALiBi)": attention("h.0.weights", mask=with_alibi),
    **{
        f"q and k normalised per head (QK-norm, LayerNorm, eps {n:g})": scored(
            lambda x, n=n: F.layer_norm(x, x.shape[-1:], eps=n)  # type: ignore[misc]
        )
        for n in (1e-5, 1e-6)
    },
    **{
        f"q and k normalised per head (QK-norm, RMSNorm, eps {n:g})": scored(
            lambda x, n=n: F.rms_norm(x, x.shape[-1:], eps=n)  # type: ignore[misc]
        )
        for n in (1e-5, 1e-6)
    },
    "q and k normalised per head (QK-norm, L2)": scored(lambda x: x / x.norm(dim=-1, keepdim=True)),
    "q and k exchanged, or the scores transposed, k q^T": attention(
        "h.0.scores", score=lambda self, q, k: k @ q.mT / k.shape[-1] ** 0.5
    ),
    **{
        f"q, k and v exchanged: it takes {', '.join(order)} where q, k, v are": parts_of(order)
        for order in ("qvk", "vkq", "kvq", "vqk")
    },
    "q, k and v interleaved by head when fused: rows read as (H, 3, D)": fused_rows(lambda H: (H, 3, -1), 3, "h.0.q"),
    "q, k and v interleaved by element when fused: rows read as (C, 3)": fused_rows(lambda H: (-1, 3), 3, "h.0.q"),
    "the square q_proj is not transposed": transposed("q_proj"),
    "the square k_proj is not transposed": transposed("k_proj"),
    "the square v_proj is not transposed": transposed("v_proj"),
    "the square attn.c_proj is not transposed": transposed("attn.c_proj"),
    "the square q_proj, k_proj and v_proj are not transposed": transposed("q_proj", "k_proj", "v_proj"),
    "the square attn.c_proj, q_proj, k_proj and v_proj are not transposed": transposed(*SQUARE),
    "the bias of attn.q_proj left out": biasless("h.0.q", "q_proj"),
    "the bias of attn.v_proj left out": biasless("h.0.v", "v_proj"),
    "the bias of attn.c_proj left out": biasless("h.0.projection", "attn.c_proj"),
    "the bias of mlp.c_fc left out": biasless("h.0.c_fc", "c_fc"),
    "the bias of mlp.c_proj left out": biasless("h.0.mlp", "mlp.c_proj"),
    "the biases of q, k and v left out": biasless("h.0.q", "q_proj", "k_proj", "v_proj"),
    "the biases of both c_proj left out": biasless("h.0.projection", "c_proj"),
    "no biases in the linear layers": biasless("h.0.q", "q_proj", "k_proj", "v_proj", "c_proj", "c_fc"),
    "the biases of q and k exchanged": swapped("attn.q_proj", "attn.k_proj", ("bias",), "h.0.q"),
    "the biases of q and v exchanged": swapped("attn.q_proj", "attn.v_proj", ("bias",), "h.0.q"),
    "the biases of k and v exchanged": swapped("attn.k_proj", "attn.v_proj", ("bias",), "h.0.v"),
    "the biases of the two c_proj exchanged": swapped("attn.c_proj", "mlp.c_proj", ("bias",), "h.0.projection"),
    "the residual adds the normalised stream": block("h.0.residual_1", normalised_stream),
    "the residual of the attention adds the normalised stream": block(
        "h.0.residual_1", lambda self, x: (y := (n := self.ln_1(x)) + self.attn(n)) + self.mlp(self.ln_2(y))
    ),
    "the residual of the MLP adds the normalised stream": block(
        "h.0.residual_2", lambda self, x: (n := self.ln_2(x + self.attn(self.ln_1(x)))) + self.mlp(n)
    ),
    "norms after the additions (post-norm)": block("h.0.ln_1", post_norm),
    "attention and MLP in parallel, from the same stream": block("h.0.ln_2", in_parallel),
    "no residual around the attention": block(
        "h.0.residual_1", lambda self, x: (y := self.attn(self.ln_1(x))) + self.mlp(self.ln_2(y))
    ),
    "no residual around the MLP": block(
        "h.0.residual_2", lambda self, x: self.mlp(self.ln_2(x + self.attn(self.ln_1(x))))
    ),
    "no norm before the attention": block("h.0.ln_1", lambda self, x: (y := x + self.attn(x)) + self.mlp(self.ln_2(y))),
    "no norm before the MLP": block("h.0.ln_2", lambda self, x: (y := x + self.attn(self.ln_1(x))) + self.mlp(y)),
    "no position embedding": embedding(lambda self, tokens, positions: tokens * 1.0),
    "positions counted from 1": rows(lambda self, T: torch.arange(1, T + 1) % self.config.block_size),
    "positions rolled by one: the first has the last position": rows(lambda self, T: torch.arange(T).roll(1)),
    "positions rolled by one: the last has position 0": rows(lambda self, T: torch.arange(T).roll(-1)),
    "sinusoids, sine and cosine in turn, in place of learned positions": embedding(
        lambda self, tokens, positions: tokens + vaswani(*tokens.shape[1:])
    ),
    "sinusoids, sine and cosine in turn, besides learned positions": embedding(
        lambda self, tokens, positions: tokens + positions + vaswani(*tokens.shape[1:]), "h.0.ln_1"
    ),
    "sinusoids, sine and cosine in two halves, in place of learned positions": embedding(
        lambda self, tokens, positions: tokens + in_halves(*tokens.shape[1:])
    ),
    "sinusoids, sine and cosine in two halves, besides learned positions": embedding(
        lambda self, tokens, positions: tokens + positions + in_halves(*tokens.shape[1:]), "h.0.ln_1"
    ),
    "positions counted from the end": rows(lambda self, T: torch.arange(T - 1, -1, -1)),
    "positions of the end of the block": rows(
        lambda self, T: torch.arange(self.config.block_size - T, self.config.block_size)
    ),
    "position 0 for every token": rows(lambda self, T: torch.zeros(T, dtype=torch.long)),
    "token embedding multiplied by the root of the width": embedding(
        lambda self, tokens, positions: tokens * math.sqrt(self.config.n_embd) + positions
    ),
    "embedding multiplied by the root of the width": embedding(
        lambda self, tokens, positions: (tokens + positions) * math.sqrt(self.config.n_embd), "h.0.ln_1"
    ),
    "log-probabilities in place of logits": result(lambda self, logits: logits.log_softmax(-1)),
    "probabilities in place of logits": result(lambda self, logits: logits.softmax(-1)),
    "logits divided by the root of the width": result(lambda self, logits: logits / self.config.n_embd**0.5),
    "logits capped at 30 by a tanh": result(lambda self, logits: 30 * (logits / 30).tanh()),
}
