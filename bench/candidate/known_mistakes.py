"""Known mistakes: if the reference with one of them reproduces a candidate's output, it is a likely cause.

To add a mistake, write its step in faulty_steps.py and add a row here: the cause, its remedy, the change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.candidate.faulty_steps import (
    adds_normalised,
    at_positions,
    blind_first_row,
    causal,
    embedded,
    eps_outside,
    exchanged,
    exchanged_biases,
    finite_mask,
    fused,
    gain_plus_one,
    headed,
    join_by_view,
    join_interleaved,
    mask_after,
    no_gain,
    no_last_norm,
    no_residual,
    no_shift,
    norm_with,
    not_normalised,
    padded_keys,
    parallel,
    post_norm,
    rearranged,
    rms_norm,
    rows_by_element,
    rows_by_head,
    scaled_by,
    seen_from,
    softmax_over_queries,
    softmax_plus_one,
    split_by_view,
    split_interleaved,
    unbiased_eps_outside,
    unbiased_norm,
    untransposed,
    without_bias,
)
from bench.candidate.traced_gpt import Change, future
from reference.config import GPTConfig
from reference.functional import cross_entropy, softmax


@dataclass(frozen=True)
class KnownMistake:
    """One known mistake of a forward pass."""

    cause: str
    remedy: str
    change: Change
    everywhere: bool = False  # it is never in one block only


PROJECTIONS = {
    "attn.c_proj": "attn.c_proj",
    "attn.q_proj": "q_proj",
    "attn.k_proj": "k_proj",
    "attn.v_proj": "v_proj",
}
CONV1D = "Hugging Face's Conv1D keeps (in, out), nn.Linear (out, in): transpose it"
TRAINED_TANH = "use F.gelu(x, approximate='tanh'), with which GPT-2 was trained"
EPS = "GPT-2 has 1e-5: give it to every LayerNorm"


def forward_mistakes() -> Iterator[KnownMistake]:
    """The table of mistakes in the forward pass."""
    yield KnownMistake("GELU in its exact erf form", TRAINED_TANH, Change(gelu=lambda x, at: F.gelu(x)))
    quick = Change(gelu=lambda x, at: x * torch.sigmoid(1.702 * x))
    yield KnownMistake("GELU in its sigmoid form, x sigmoid(1.702 x)", TRAINED_TANH, quick)
    yield KnownMistake("ReLU in place of GELU", TRAINED_TANH, Change(gelu=lambda x, at: x.relu()))
    yield KnownMistake("SiLU in place of GELU", TRAINED_TANH, Change(gelu=lambda x, at: F.silu(x)))
    yield KnownMistake("no activation in the MLP", TRAINED_TANH, Change(gelu=lambda x, at: x))

    for eps in (1e-3, 1e-4, 1e-6, 1e-8):
        yield KnownMistake(f"LayerNorm with eps {eps:g}", EPS, norm_with(eps))
    yield KnownMistake("LayerNorm with eps 1e-12 or none", EPS, norm_with(1e-12))
    inside = "the eps belongs inside the root, and the variance divides by C: use F.layer_norm"
    yield KnownMistake("LayerNorm with the unbiased variance (divided by C - 1)", inside, Change(norm=unbiased_norm))
    yield KnownMistake("LayerNorm with eps outside the root", inside, Change(norm=eps_outside))
    both = Change(norm=unbiased_eps_outside)
    yield KnownMistake("LayerNorm with the unbiased deviation, and eps added outside the root", inside, both)
    yield KnownMistake("RMSNorm in place of LayerNorm", "subtract the mean too", Change(norm=rms_norm))
    yield KnownMistake("LayerNorm without its gain", "multiply by the weight", Change(norm=no_gain))
    yield KnownMistake("LayerNorm without its shift", "add the bias", Change(norm=no_shift))
    yield KnownMistake(
        "LayerNorm that multiplies by 1 + weight", "multiply by the weight itself", Change(norm=gain_plus_one)
    )
    last = Change(norm=no_last_norm)
    yield KnownMistake("no norm after the last block", "apply ln_f before the head", last, everywhere=True)
    yield KnownMistake("the two norms of a block exchanged", "ln_1 belongs to the attention", exchanged("ln_1", "ln_2"))

    head = "divide q k^T by the square root of the head's width"
    yield KnownMistake(
        "scores scaled by the width of the model, not of a head",
        head,
        scaled_by(lambda at: at.config.n_embd**-0.5),
    )
    yield KnownMistake("scores not scaled", head, scaled_by(lambda at: 1.0))
    yield KnownMistake(
        "scores divided by the head's width, not its root", head, scaled_by(lambda at: 1.0 / at.config.head_size)
    )
    yield KnownMistake(
        "scores multiplied by the root of the head's width", head, scaled_by(lambda at: at.config.head_size**0.5)
    )
    yield KnownMistake("scores scaled by the number of heads", head, scaled_by(lambda at: at.config.n_head**-0.5))
    yield KnownMistake(
        "scores divided by the number of the layer too",
        "turn scale_attn_by_inverse_layer_idx off",
        scaled_by(lambda at: at.config.head_size**-0.5 / (at.block + 1)),
    )

    minus = "set scores of later keys to -inf before the softmax, and only those: triu(diagonal=1)"
    yield KnownMistake("no causal mask", minus, causal(lambda scores: scores))
    yield KnownMistake("a mask that lets each token see the next one", minus, causal(seen_from(2)))
    yield KnownMistake("a mask that hides each token from itself", minus, Change(softmax=blind_first_row))
    upside = causal(lambda scores: scores.masked_fill(~future(scores.shape[-1], scores.device, 0), -math.inf))
    yield KnownMistake("the mask upside down: the past hidden, the future seen", minus, upside)
    yield KnownMistake("masked scores of 0, not -inf", minus, causal(finite_mask(0.0)))
    yield KnownMistake("a finite mask value, -1e4", minus, causal(finite_mask(-1e4)))
    yield KnownMistake("a finite mask value, -10", minus, causal(finite_mask(-10.0)))
    yield KnownMistake("the mask applied after the softmax", minus, Change(softmax=mask_after))
    over = "softmax over the last dimension, the keys"
    yield KnownMistake("softmax over the queries, not the keys", over, Change(softmax=softmax_over_queries))
    no_one = "divide by the sum of the exponentials only"
    yield KnownMistake("softmax with one added to its denominator", no_one, Change(softmax=softmax_plus_one))
    for multiple in (8, 16, 32, 64, 128):
        yield KnownMistake(
            f"padding in the softmax: keys of zeros up to a multiple of {multiple}",
            "mask the padded keys with -inf",
            Change(softmax=padded_keys(multiple)),
        )

    view = "view(B, T, H, D).transpose(1, 2) and back by transpose(1, 2).reshape(B, T, C)"
    yield KnownMistake("heads joined without the transpose", view, Change(join=join_by_view))
    yield KnownMistake("heads split without the transpose", view, Change(split=split_by_view))
    both_ways = Change(split=split_by_view, join=join_by_view)
    yield KnownMistake("heads split and joined without the transpose", view, both_ways)
    yield KnownMistake("heads interleaved: view(B, T, D, H) when splitting", view, Change(split=split_interleaved))
    yield KnownMistake(
        "heads interleaved: the elements of all heads side by side when joining", view, Change(join=join_interleaved)
    )

    rearrangement = "check the order in which the fused projection is split, and the layout"
    yield KnownMistake("q and k exchanged, or the scores transposed, k q^T", rearrangement, rearranged("kqv"))
    for order in ("qvk", "vkq", "kvq", "vqk"):
        yield KnownMistake(
            f"q, k and v exchanged: it takes {', '.join(order)} where q, k, v are",
            rearrangement,
            rearranged(order),
        )
    rows = "the layout puts all of q before all of k: reorder its rows, or split as view(3, H, D)"
    yield KnownMistake("q, k and v interleaved by head when fused: rows read as (H, 3, D)", rows, fused(rows_by_head))
    yield KnownMistake(
        "q, k and v interleaved by element when fused: rows read as (C, 3)", rows, fused(rows_by_element)
    )
    for count in (1, 2, 3, 4):
        for names in itertools.combinations(PROJECTIONS, count):
            shown = " and ".join(", ".join(PROJECTIONS[n] for n in names).rsplit(", ", 1))
            verb = "is" if count == 1 else "are"
            yield KnownMistake(f"the square {shown} {verb} not transposed", CONV1D, untransposed(*names))

    # the k bias adds a constant to every score of a row, so leaving it out changes nothing
    for name in ("attn.q_proj", "attn.v_proj", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        yield KnownMistake(f"the bias of {name} left out", "add it", without_bias(name))
    attention = without_bias("attn.q_proj", "attn.k_proj", "attn.v_proj")
    yield KnownMistake("the biases of q, k and v left out", "add them", attention)
    outer = without_bias("attn.c_proj", "mlp.c_proj")
    yield KnownMistake("the biases of both c_proj left out", "add them", outer)
    everything = without_bias(*PROJECTIONS, "mlp.c_fc", "mlp.c_proj")
    yield KnownMistake("no biases in the linear layers", "add them", everything)
    for first, second in itertools.combinations("qkv", 2):
        yield KnownMistake(
            f"the biases of {first} and {second} exchanged",
            "check the layout",
            exchanged_biases(f"attn.{first}_proj", f"attn.{second}_proj"),
        )
    yield KnownMistake(
        "the biases of the two c_proj exchanged", "check the layout", exchanged_biases("attn.c_proj", "mlp.c_proj")
    )

    raw = "x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))"
    yield KnownMistake("the residual adds the normalised stream", raw, Change(block=adds_normalised))
    yield KnownMistake("norms after the additions (post-norm)", raw, Change(block=post_norm))
    yield KnownMistake("attention and MLP in parallel, from the same stream", raw, Change(block=parallel))
    yield KnownMistake("no residual around the attention", raw, no_residual(True, False))
    yield KnownMistake("no residual around the MLP", raw, no_residual(False, True))
    yield KnownMistake("no norm before the attention", raw, not_normalised(True, False))
    yield KnownMistake("no norm before the MLP", raw, not_normalised(False, True))

    from_zero = "positions run from 0 to T - 1, one row of the table each"
    yield KnownMistake("no position embedding", from_zero, embedded(lambda tokens, p, at: tokens), True)
    later = at_positions(lambda T, at: (torch.arange(T) + 1).clamp(max=at.config.block_size - 1))
    yield KnownMistake("positions counted from 1", from_zero, later, True)
    reverse = at_positions(lambda T, at: torch.arange(T).flip(0))
    yield KnownMistake("positions counted from the end", from_zero, reverse, True)
    right = at_positions(lambda T, at: torch.arange(at.config.block_size)[-T:])
    yield KnownMistake("positions of the end of the block", from_zero, right, True)
    same = at_positions(lambda T, at: torch.zeros(T, dtype=torch.int64))
    yield KnownMistake("position 0 for every token", from_zero, same, True)
    root = embedded(lambda tokens, positions, at: tokens * at.config.n_embd**0.5 + positions)
    plain = "add tokens and positions as they are"
    yield KnownMistake("token embedding multiplied by the root of the width", plain, root, True)
    both_scaled = embedded(lambda tokens, positions, at: (tokens + positions) * at.config.n_embd**0.5)
    yield KnownMistake("embedding multiplied by the root of the width", plain, both_scaled, True)

    logits = "return ln_f(x) W^T of the token table"
    log = headed(lambda x, table, at: F.log_softmax(x @ table.T, dim=-1))
    yield KnownMistake("log-probabilities in place of logits", logits, log, True)
    share = headed(lambda x, table, at: F.softmax(x @ table.T, dim=-1))
    yield KnownMistake("probabilities in place of logits", logits, share, True)
    narrow = headed(lambda x, table, at: x @ table.T * at.config.n_embd**-0.5)
    yield KnownMistake("logits divided by the root of the width", logits, narrow, True)
    capped = headed(lambda x, table, at: 30.0 * torch.tanh(x @ table.T / 30.0))
    yield KnownMistake("logits capped at 30 by a tanh", logits, capped, True)


def loss_mistakes(config: GPTConfig) -> Iterator[tuple[str, str, Callable[[Tensor, Tensor], Tensor]]]:
    """The table of mistakes in the loss: cause, remedy, and the loss of logits (B, T, V) and targets (B, T)."""
    V = config.vocab_size

    def padded(multiple: int) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, targets: cross_entropy(F.pad(logits, (0, -V % multiple)), targets)

    ignored = "mean over the targets that are not -1: cross_entropy(..., ignore_index=-1)"
    once = "targets come shifted already: targets[t] follows ids[t]"
    yield (
        "the sum divided by all targets, the ignored ones too",
        ignored,
        lambda logits, targets: cross_entropy(logits, targets) * (targets != -1).double().mean(),
    )
    yield (
        "the sum of the losses, not their mean",
        ignored,
        lambda logits, targets: cross_entropy(logits, targets) * (targets != -1).sum(),
    )
    yield (
        "ignored targets counted as token 0",
        ignored,
        lambda logits, targets: cross_entropy(logits, targets.clamp(min=0)),
    )
    yield (
        "ignored targets counted as the last token",
        ignored,
        lambda logits, targets: cross_entropy(logits, targets % V),
    )
    yield (
        "targets shifted twice",
        once,
        lambda logits, targets: cross_entropy(logits[:, :-1], targets[:, 1:]),
    )
    yield (
        "the mean of each sequence's mean",
        ignored,
        lambda logits, targets: torch.stack(
            [cross_entropy(a, b) for a, b in zip(logits, targets, strict=True) if (b != -1).any()]
        ).mean(),
    )
    yield (
        "in bits, not nats",
        "use the natural logarithm",
        lambda logits, targets: cross_entropy(logits, targets) / math.log(2.0),
    )
    yield (
        "softmax taken twice: probabilities given to cross-entropy",
        "give it the logits",
        lambda logits, targets: cross_entropy(softmax(logits), targets),
    )
    for smoothing in (0.1,):
        yield (
            f"label smoothing of {smoothing}",
            "leave it out",
            lambda logits, targets: F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=-1, label_smoothing=0.1
            ),
        )
    for multiple in (8, 16, 32, 64, 128):
        if V % multiple:
            yield (
                f"padding in the softmax: columns of zeros up to a multiple of {multiple}",
                "cut the logits to the vocabulary before the loss, or set the padding to -inf",
                padded(multiple),
            )


DETACHED = {
    "tokens": "the token embedding",
    "positions": "the position embedding",
    "embedding": "the embedding",
    "ln_1": "the norm before the attention",
    "q": "q",
    "k": "k",
    "v": "v",
    "scores": "the scores",
    "weights": "the attention weights",
    "attention": "the attention output",
    "projection": "the output projection of the attention",
    "residual_1": "the residual stream after the attention",
    "ln_2": "the norm before the MLP",
    "c_fc": "the first layer of the MLP",
    "gelu": "the GELU",
    "mlp": "the second layer of the MLP",
    "residual_2": "the residual stream after the MLP",
    "ln_f": "the norm after the last block",
}
DETACHED_TOGETHER = (("q", "k"), ("k", "v"), ("q", "k", "v"), ("ln_1", "ln_2"), ("residual_1", "residual_2"))
REMEDY = "look for detach(), .data, no_grad() or torch.tensor() there"


def common_factor(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], allowed: float) -> float | None:
    """The common factor of all tensors, if there is one."""
    square = sum(float(t.double().square().sum()) for t in expected.values())
    if square == 0.0:
        return None
    product = sum(float((actual[n].double() * t.double()).sum()) for n, t in expected.items())
    factor = product / square
    rest = sum(float((actual[n].double() - factor * t.double()).square().sum()) for n, t in expected.items())
    return factor if math.sqrt(rest / square) <= allowed * abs(factor) and abs(factor - 1.0) > allowed else None
