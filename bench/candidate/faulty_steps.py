"""Wrong steps of a GPT-2, as real code has them; known_mistakes.py puts them into the reference.

Shapes as in bench/candidate/traced_gpt.py: B batch, T time, C width, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.candidate.traced_gpt import At, Change, Step, Watch, future, join_heads
from reference.functional import layer_norm, softmax

Own = dict[str, Tensor]  # a block's weights by their names within it


# Norms


def norm_with(eps: float) -> Change:
    """layer_norm with another eps."""
    return Change(norm=lambda x, w, b, at: layer_norm(x, w, b, eps))


def unbiased_norm(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """The variance divided by C - 1."""
    centred = x - x.mean(-1, keepdim=True)
    return shifted(centred / (x.var(-1, keepdim=True, unbiased=True) + 1e-5).sqrt() * w, b)


def eps_outside(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """eps added to the root of the variance."""
    centred = x - x.mean(-1, keepdim=True)
    return shifted(centred / (x.var(-1, keepdim=True, unbiased=False).sqrt() + 1e-5) * w, b)


def unbiased_eps_outside(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """Both of them: torch.std and an eps beside it, as in the Annotated Transformer."""
    centred = x - x.mean(-1, keepdim=True)
    return shifted(centred / (x.std(-1, keepdim=True) + 1e-5) * w, b)


def no_gain(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """The weight is left out."""
    return layer_norm(x, torch.ones_like(w), b)


def no_shift(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """The bias is left out."""
    return layer_norm(x, w, None)


def gain_plus_one(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """A weight that is meant to be added to 1."""
    return layer_norm(x, w + 1.0, b)


def shifted(x: Tensor, b: Tensor | None) -> Tensor:
    """x + b, where there is a b."""
    return x if b is None else x + b


def rms_norm_with(eps: float, shift: bool) -> Change:
    """RMSNorm, https://arxiv.org/abs/1910.07467, with or without the shift."""

    def norm(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
        return shifted(x / ((x * x).mean(-1, keepdim=True) + eps).sqrt() * w, b if shift else None)

    return Change(norm=norm)


def no_variance(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """Only the mean is subtracted."""
    return shifted((x - x.mean(-1, keepdim=True)) * w, b)


# Attention


def scaled_by(factor: Callable[[At], float]) -> Change:
    """Scores scaled by a factor other than D^-1/2."""
    return Change(product=lambda q, k, at: q @ k.transpose(-2, -1) * factor(at))


def causal(blocked: Callable[[Tensor], Tensor]) -> Change:
    """Scores with another mask."""
    return Change(mask=lambda scores, at: blocked(scores))


def seen_from(first: int) -> Callable[[Tensor], Tensor]:
    """A mask that hides keys from `first` positions after the query on."""
    return lambda scores: scores.masked_fill(future(scores.shape[-1], scores.device, first), -math.inf)


def finite_mask(value: float) -> Callable[[Tensor], Tensor]:
    """Hidden scores become a number, not -inf."""
    return lambda scores: scores.masked_fill(future(scores.shape[-1], scores.device), value)


def added_mask(value: float) -> Callable[[Tensor], Tensor]:
    """A number is added to hidden scores."""
    return lambda scores: scores + value * future(scores.shape[-1], scores.device)


def blind_first_row(scores: Tensor) -> Tensor:
    """A query sees only earlier keys; the first query sees itself."""
    hidden = future(scores.shape[-1], scores.device, 0).clone()
    hidden[0, 0] = False
    return scores.masked_fill(hidden, -math.inf)


def mask_after() -> Change:
    """Weights of the future set to zero after the softmax, so that rows sum to less than 1."""
    return Change(mask=lambda scores, at: scores, softmax=lambda scores, at: softmax(scores).tril())


def softmax_over_queries(scores: Tensor, at: At) -> Tensor:
    """Columns that sum to 1."""
    return softmax(scores.transpose(-2, -1)).transpose(-2, -1)


def softmax_plus_one(scores: Tensor, at: At) -> Tensor:
    """exp(x) / (1 + sum(exp(x)))."""
    return softmax(F.pad(scores, (0, 1)))[..., :-1]


def padded_keys(multiple: int) -> Callable[[Tensor, At], Tensor]:
    """Keys of zeros that pad the last tile and are not masked."""

    def weights(scores: Tensor, at: At) -> Tensor:
        T = scores.shape[-1]
        return softmax(F.pad(scores, (0, -T % multiple)))[..., :T]

    return weights


def turned(function: Callable[[Tensor, At], Tensor]) -> Change:
    """Another q and another k, by the same function."""
    return Change(q_and_k=function)


def rotated(halves: bool, base: float = 10000.0) -> Callable[[Tensor, At], Tensor]:
    """Rotary positions, https://arxiv.org/abs/2104.09864; pairs are the two halves of a head, or neighbours."""

    def turn(x: Tensor, at: At) -> Tensor:
        T, D = x.shape[-2:]
        even = D // 2 * 2
        rates = base ** (-torch.arange(0, even, 2, dtype=x.dtype, device=x.device) / even)
        angles = torch.arange(T, dtype=x.dtype, device=x.device)[:, None] * rates  # (T, D / 2)
        kept, x = x[..., even:], x[..., :even]
        a, b = (x[..., : even // 2], x[..., even // 2 :]) if halves else (x[..., 0::2], x[..., 1::2])
        turned = a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()
        joined = torch.cat(turned, -1) if halves else torch.stack(turned, -1).flatten(-2)
        return torch.cat([joined, kept], -1)

    return turn


def alibi(scores: Tensor, at: At) -> Tensor:
    """Linear biases, https://arxiv.org/abs/2108.12409: slope 2^(-8 (h + 1) / H) times the distance."""
    H, T = scores.shape[-3], scores.shape[-1]
    slopes = 2.0 ** (-8.0 * torch.arange(1, H + 1, dtype=scores.dtype, device=scores.device) / H)
    place = torch.arange(T, dtype=scores.dtype, device=scores.device)
    return scores + slopes[:, None, None] * (place - place[:, None]).clamp(max=0.0)


def normal_heads(kind: str, eps: float) -> Callable[[Tensor, At], Tensor]:
    """QK-norm without a gain, per head: LayerNorm, RMSNorm, or division by the length (L2)."""

    def turn(x: Tensor, at: At) -> Tensor:
        if kind == "L2":
            return F.normalize(x, dim=-1)
        x = x - x.mean(-1, keepdim=True) if kind == "LayerNorm" else x
        return x / ((x * x).mean(-1, keepdim=True) + eps).sqrt()

    return turn


def split_by_view(x: Tensor, at: At) -> Tensor:
    """(B, T, C) read as (B, H, T, D) without a transpose."""
    B, T, C = x.shape
    return x.reshape(B, at.config.n_head, T, C // at.config.n_head)


def split_interleaved(x: Tensor, at: At) -> Tensor:
    """Heads are interleaved: element d of head h is at d H + h."""
    B, T, C = x.shape
    return x.view(B, T, C // at.config.n_head, at.config.n_head).permute(0, 3, 1, 2)


def join_by_view(y: Tensor, at: At) -> Tensor:
    """(B, H, T, D) read as (B, T, C) without a transpose."""
    B, H, T, D = y.shape
    return y.reshape(B, T, H * D)


def join_interleaved(y: Tensor, at: At) -> Tensor:
    """Heads are interleaved when joined."""
    B, H, T, D = y.shape
    return y.permute(0, 2, 3, 1).reshape(B, T, D * H)


def join_reversed(y: Tensor, at: At) -> Tensor:
    """The last head first."""
    return join_heads(y.flip(1), at)


# Residual stream


def leaking(share: float) -> Change:
    """The mean over all positions is added to the stream after each block."""
    return Change(end=lambda x, at: x + share * x.mean(dim=1, keepdim=True))


def adds_normalised(first: bool, second: bool) -> Change:
    """x = ln(x) first, so the residual of attention or MLP adds to the normalised stream."""

    def block(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
        normal = ln_1(x)
        x = watch("residual_1", (normal if first else x) + attention(normal))
        normal = ln_2(x)
        return watch("residual_2", (normal if second else x) + mlp(normal))

    return Change(block=block)


def post_norm(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
    """The original Transformer's order."""
    x = watch("residual_1", ln_1(x + attention(x)))
    return watch("residual_2", ln_2(x + mlp(x)))


def parallel(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
    """The MLP reads what the attention read."""
    after = watch("residual_1", x + attention(ln_1(x)))
    return watch("residual_2", after + mlp(ln_2(x)))


def no_residual(first: bool, second: bool) -> Change:
    """Without residual connections around attention or MLP."""

    def block(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
        x = watch("residual_1", attention(ln_1(x)) + (0.0 if first else x))
        return watch("residual_2", mlp(ln_2(x)) + (0.0 if second else x))

    return Change(block=block)


def not_normalised(first: bool, second: bool) -> Change:
    """Attention or MLP reads the stream without its norm."""

    def block(x: Tensor, ln_1: Step, attention: Step, ln_2: Step, mlp: Step, watch: Watch) -> Tensor:
        x = watch("residual_1", x + attention(x if first else ln_1(x)))
        return watch("residual_2", x + mlp(x if second else ln_2(x)))

    return Change(block=block)


# Weights


def altered(function: Callable[[Own], Own]) -> Change:
    """A block's weights with some of them replaced."""
    return Change(weights=lambda own, at: {**own, **function(own)})


def exchanged(first: str, second: str) -> Change:
    """Two layers of a block with each other's tensors."""

    def exchange(own: Own) -> Own:
        mine = {n: t for n, t in own.items() if n.startswith((f"{first}.", f"{second}."))}
        other = {first: second, second: first}
        return {f"{other[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": t for n, t in mine.items()}

    return altered(exchange)


def untransposed(*names: str) -> Change:
    """Weights left as (in, out); only square ones fit then."""
    return altered(lambda own: {f"{name}.weight": own[f"{name}.weight"].T for name in names})


def without_bias(*names: str) -> Change:
    """Layers without their bias."""
    return Change(weights=lambda own, at: {n: t for n, t in own.items() if n not in {f"{x}.bias" for x in names}})


def exchanged_biases(first: str, second: str) -> Change:
    """Two layers with each other's bias."""

    def exchange(own: Own) -> Own:
        a, b = f"{first}.bias", f"{second}.bias"
        return {a: own[b], b: own[a]} if a in own else {}

    return altered(exchange)


def rearranged(order: str) -> Change:
    """q, k and v of a fused projection in another order: "kqv" reads k as q and q as k."""

    def parts(own: Own) -> Own:
        pairs = zip("qkv", order, strict=True)
        kinds = ("weight", "bias") if "attn.q_proj.bias" in own else ("weight",)
        return {f"attn.{to}_proj.{kind}": own[f"attn.{of}_proj.{kind}"] for to, of in pairs for kind in kinds}

    return altered(parts)


def fused(read: Callable[[Tensor, int], Tensor]) -> Change:
    """q, k and v fused into one matrix (3C, ...), its rows read in another order, (3, C, ...)."""

    def weights(own: Own, at: At) -> Own:
        out = dict(own)
        for kind in ("weight", "bias"):
            if f"attn.q_proj.{kind}" in own:
                joined = torch.cat([own[f"attn.{n}_proj.{kind}"] for n in "qkv"])
                for n, part in zip("qkv", read(joined, at.config.n_head), strict=True):
                    out[f"attn.{n}_proj.{kind}"] = part
        return out

    return Change(weights=weights)


def rows_by_head(joined: Tensor, H: int) -> Tensor:
    """Read as (H, 3, D): the q, k and v of a head next to each other."""
    rest = joined.shape[1:]
    return joined.view(H, 3, -1, *rest).transpose(0, 1).reshape(3, -1, *rest)


def rows_by_element(joined: Tensor, H: int) -> Tensor:
    """Read as (C, 3): the q, k and v of an element next to each other."""
    rest = joined.shape[1:]
    return joined.view(-1, 3, *rest).transpose(0, 1)


# Embedding and head


def embedded(function: Callable[[Tensor, Tensor, At], Tensor]) -> Change:
    """Another sum of token and position embeddings."""
    return Change(embed=function)


def sinusoids(T: int, C: int, halves: bool) -> Tensor:
    """The table of https://arxiv.org/abs/1706.03762, section 3.5: sine and cosine in turn, or in two halves."""
    rates = 10000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * rates
    if halves:
        return torch.cat([angles.sin(), angles.cos()], -1)[:, :C]
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :C]


def sinusoidal(halves: bool, besides: bool) -> Change:
    """Sinusoids in place of the table of positions, or besides it."""

    def embed(tokens: Tensor, positions: Tensor, at: At) -> Tensor:
        table = sinusoids(tokens.shape[1], tokens.shape[2], halves).to(tokens)
        return tokens + table + (positions if besides else 0.0)

    return embedded(embed)


def at_positions(function: Callable[[int, At], Tensor]) -> Change:
    """Other rows of the position table."""
    return Change(positions=function)


def headed(function: Callable[[Tensor, Tensor, At], Tensor]) -> Change:
    """Another map from the last norm to the logits."""
    return Change(head=function)


# Gradients


def constant_deviation(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """No gradient through the deviation of a norm."""
    centred = x - x.mean(-1, keepdim=True)
    return shifted(centred / ((centred * centred).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * w, b)


def constant_mean(x: Tensor, w: Tensor, b: Tensor | None, at: At) -> Tensor:
    """No gradient through the mean of a norm."""
    centred = x - x.mean(-1, keepdim=True).detach()
    return shifted(centred / ((centred * centred).mean(-1, keepdim=True) + 1e-5).sqrt() * w, b)


def detaching(names: tuple[str, ...], blocks: Collection[int] | None) -> Watch:
    """A `Watch` that detaches some activations."""

    def watch(name: str, x: Tensor) -> Tensor:
        parts = name.split(".")
        block, own = (int(parts[1]), parts[2]) if len(parts) == 3 else (None, name)
        stopped = own in names and (blocks is None or block is None or block in blocks)
        return x.detach() if stopped else x

    return watch
