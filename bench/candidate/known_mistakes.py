"""Known mistakes: if the reference with one of them reproduces a candidate's output, it is a likely cause.

To add a mistake, write its step in faulty_steps.py and add a row here: the cause, its remedy, the change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.candidate.faulty_steps import (
    added_mask,
    adds_normalised,
    alibi,
    at_positions,
    blind_first_row,
    causal,
    constant_deviation,
    constant_mean,
    detaching,
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
    join_reversed,
    leaking,
    mask_after,
    no_gain,
    no_residual,
    no_shift,
    no_variance,
    norm_with,
    normal_heads,
    not_normalised,
    padded_keys,
    parallel,
    post_norm,
    rearranged,
    rms_norm_with,
    rotated,
    rows_by_element,
    rows_by_head,
    scaled_by,
    seen_from,
    sinusoidal,
    softmax_over_queries,
    softmax_plus_one,
    split_by_view,
    split_interleaved,
    turned,
    unbiased_eps_outside,
    unbiased_norm,
    untransposed,
    without_bias,
)
from bench.candidate.traced_gpt import GPT2, Change, Watch, future
from reference.config import GPTConfig
from reference.functional import cross_entropy, gelu, softmax


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
MASKS = {-1e4: "-1e4", -65504.0: "-65504", -1e3: "-1e3", -100.0: "-100", -10.0: "-10", -1.0: "-1"}


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
    for rms_eps in (1e-5, 1e-6, 1e-8):
        of = "" if rms_eps == 1e-5 else f" (eps {rms_eps:g})"
        whole, bare = (rms_norm_with(rms_eps, shift) for shift in (True, False))
        yield KnownMistake(f"RMSNorm in place of LayerNorm{of}", "subtract the mean too", whole)
        yield KnownMistake(
            f"RMSNorm without a shift in place of LayerNorm{of}", "subtract the mean, and add the bias", bare
        )
    yield KnownMistake("LayerNorm that does not divide by the deviation", inside, Change(norm=no_variance))
    yield KnownMistake("LayerNorm without its gain", "multiply by the weight", Change(norm=no_gain))
    yield KnownMistake("LayerNorm without its shift", "add the bias", Change(norm=no_shift))
    yield KnownMistake(
        "LayerNorm that multiplies by 1 + weight", "multiply by the weight itself", Change(norm=gain_plus_one)
    )
    last = Change(final=lambda x, norm: x)
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
    yield KnownMistake("a mask that hides each token from itself", minus, causal(blind_first_row))
    upside = causal(lambda scores: scores.masked_fill(~future(scores.shape[-1], scores.device, 0), -math.inf))
    yield KnownMistake("the mask upside down: the past hidden, the future seen", minus, upside)
    yield KnownMistake("masked scores of 0, not -inf", minus, causal(finite_mask(0.0)))
    for value, shown in MASKS.items():
        yield KnownMistake(f"a finite mask value, {shown}", minus, causal(finite_mask(value)))
        yield KnownMistake(f"a finite mask value that is added, {shown}", minus, causal(added_mask(value)))
    yield KnownMistake("the mask applied after the softmax", minus, mask_after())
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

    yield KnownMistake("heads joined in reverse order", view, Change(join=join_reversed))

    learned = "GPT-2 adds a learned table of positions to the tokens; it changes neither q and k nor the scores"
    for halves, pairs in ((True, "halves of a head"), (False, "neighbours")):
        yield KnownMistake(f"rotary positions in q and k (RoPE, pairs of {pairs})", learned, turned(rotated(halves)))
    yield KnownMistake("linear biases of the distance in the scores (ALiBi)", learned, Change(bias=alibi))
    none = "GPT-2 does not normalise q and k"
    for kind, eps in (("LayerNorm", 1e-5), ("LayerNorm", 1e-6), ("RMSNorm", 1e-5), ("RMSNorm", 1e-6), ("L2", 0.0)):
        own = f"{kind}, eps {eps:g}" if eps else kind
        yield KnownMistake(f"q and k normalised per head (QK-norm, {own})", none, turned(normal_heads(kind, eps)))

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
    yield KnownMistake("the residual adds the normalised stream", raw, adds_normalised(True, True))
    yield KnownMistake("the residual of the attention adds the normalised stream", raw, adds_normalised(True, False))
    yield KnownMistake("the residual of the MLP adds the normalised stream", raw, adds_normalised(False, True))
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
    for halves, order in ((False, "in turn"), (True, "in two halves")):
        table = f"sinusoids, sine and cosine {order}"
        yield KnownMistake(
            f"{table}, in place of learned positions", from_zero, sinusoidal(halves, besides=False), True
        )
        yield KnownMistake(f"{table}, besides learned positions", from_zero, sinusoidal(halves, besides=True), True)
    for shift, by_one in ((1, "the first has the last position"), (-1, "the last has position 0")):
        rolled = at_positions(lambda T, at, shift=shift: torch.arange(T).roll(shift))  # type: ignore[misc]
        yield KnownMistake(f"positions rolled by one: {by_one}", from_zero, rolled, True)
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


@dataclass(frozen=True)
class Family:
    """Known mistakes that differ by a number. It is fitted to the candidate, then tested as each other mistake."""

    cause: Callable[[str], str]  # from the number
    remedy: str
    change: Callable[[float], Change]
    starts: tuple[float, ...]  # where the fit begins
    right: float | None  # the number with which it is no mistake; None if there is none
    everywhere: bool = False
    estimate: Callable[[Tensor, Tensor], list[float]] | None = None  # of the number, from scores and attention weights

    def member(self, number: float) -> KnownMistake:
        """The mistake with one number."""
        return KnownMistake(self.cause(f"{number:.6g}"), self.remedy, self.change(number), self.everywhere)


def filled_number(scores: Tensor, weights: Tensor) -> list[float]:
    """The score of hidden keys, from a hidden and a seen weight of one query; scores and weights (B, H, T, T)."""
    return [shown + difference for shown, _, difference in seen_and_hidden(scores, weights)]


def added_number(scores: Tensor, weights: Tensor) -> list[float]:
    """The number that was added to the scores of hidden keys."""
    return [shown + difference - hidden for shown, hidden, difference in seen_and_hidden(scores, weights)]


def seen_and_hidden(scores: Tensor, weights: Tensor) -> Iterator[tuple[float, float, float]]:
    """Of the query with the largest weight on a later key: a visible score, that key's, how far masking lowers it."""
    later = future(scores.shape[-1], scores.device)
    hidden = weights.masked_fill(~later, 0.0)
    least = torch.minimum(hidden.amax(-1), weights.masked_fill(later, 0.0).amax(-1))  # (B, H, T)
    if not float(least.max()) > 1e-200:
        return
    row = int(least.argmax())
    w, s, h = (x.reshape(-1, x.shape[-1])[row] for x in (weights, scores, hidden))
    a, b = int((w - h).argmax()), int(h.argmax())
    yield float(s[a]), float(s[b]), float(w[b].log() - w[a].log())


def tanh_gelu(outer: float, inner: float) -> Change:
    """x/2 (1 + tanh(outer (x + inner x^3)))."""
    return Change(gelu=lambda x, at: 0.5 * x * (1.0 + torch.tanh(outer * (x + inner * x**3))))


def families() -> Iterator[Family]:
    """The table of mistakes in the forward pass that have a number."""
    ROOT = math.sqrt(2.0 / math.pi)
    yield Family(
        lambda n: f"GELU with another constant: {n} in place of 0.044715",
        TRAINED_TANH,
        lambda n: tanh_gelu(ROOT, n),
        (0.05, 0.3),
        0.044715,
    )
    yield Family(
        lambda n: f"GELU with another constant: {n} in place of the root of 2/pi, 0.797885",
        TRAINED_TANH,
        lambda n: tanh_gelu(n, 0.044715),
        (0.7, 1.2),
        ROOT,
    )
    yield Family(
        lambda n: f"GELU in its sigmoid form, x sigmoid({n} x)",
        TRAINED_TANH,
        lambda n: Change(gelu=lambda x, at: x * torch.sigmoid(n * x)),
        (1.5, 0.8),
        None,
    )
    yield Family(
        lambda n: f"LeakyReLU in place of GELU, slope {n}",
        TRAINED_TANH,
        lambda n: Change(gelu=lambda x, at: torch.where(x < 0, n * x, x)),
        (0.1,),
        None,
    )
    yield Family(
        lambda n: f"the output of the activation multiplied by {n}",
        TRAINED_TANH,
        lambda n: Change(gelu=lambda x, at: n * gelu(x)),
        (2.0,),
        1.0,
    )
    yield Family(lambda n: f"LayerNorm with eps {n}", EPS, norm_with, (1e-4, 1e-2, 1e-1), 1e-5)
    yield Family(
        lambda n: f"RMSNorm in place of LayerNorm (eps {n})",
        "subtract the mean too",
        lambda n: rms_norm_with(n, True),
        (1e-3,),
        None,
    )
    yield Family(
        lambda n: f"scores multiplied by {n}, not divided by the root of the head's width",
        "divide q k^T by the square root of the head's width",
        lambda n: scaled_by(lambda at: n),
        (0.5,),
        None,
    )
    yield Family(
        lambda n: f"a finite mask value, {n}",
        "set scores of later keys to -inf before the softmax",
        lambda n: causal(finite_mask(n)),
        (-3.0,),
        None,
        estimate=filled_number,
    )
    yield Family(
        lambda n: f"a finite mask value that is added, {n}",
        "set scores of later keys to -inf before the softmax",
        lambda n: causal(added_mask(n)),
        (-3.0,),
        None,
        estimate=added_number,
    )
    yield Family(
        lambda n: f"the mean over all positions leaks into the stream, times {n}",
        "no position may see a later one: look for a mean, a norm or a pool over time",
        leaking,
        (1e-3,),
        0.0,
    )
    yield Family(
        lambda n: f"token embedding multiplied by {n}",
        "add tokens and positions as they are",
        lambda n: embedded(lambda tokens, positions, at: n * tokens + positions),
        (2.0,),
        1.0,
        True,
    )
    yield Family(
        lambda n: f"position embedding multiplied by {n}",
        "add tokens and positions as they are",
        lambda n: embedded(lambda tokens, positions, at: tokens + n * positions),
        (2.0,),
        1.0,
        True,
    )
    yield Family(
        lambda n: f"logits multiplied by {n}",
        "return ln_f(x) W^T of the token table",
        lambda n: headed(lambda x, table, at: n * (x @ table.T)),
        (2.0,),
        1.0,
        True,
    )
    yield Family(
        lambda n: f"logits capped at {n} by a tanh",
        "return ln_f(x) W^T of the token table",
        lambda n: headed(lambda x, table, at: n * torch.tanh(x @ table.T / n)),
        (20.0, 50.0),
        None,
        True,
    )


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


@dataclass(frozen=True)
class GradientMistake:
    """One known mistake of a backward pass; it changes no logit."""

    cause: str
    remedy: str
    change: Change = GPT2
    watch: Watch = lambda name, x: x


def gradient_mistakes(blocks: Collection[int] | None) -> Iterator[GradientMistake]:
    """The table of mistakes in the backward pass.

    Args:
        blocks: where an activation is detached; None for everywhere
    """
    if blocks is None:
        yield GradientMistake(
            "the token table gets no gradient from the logits: the head is detached or not tied",
            REMEDY,
            headed(lambda x, table, at: x @ table.detach().T),
        )
        yield GradientMistake(
            "the gradient of the token table from the logits is doubled",
            "the tied table is one parameter: count its gradient once",
            headed(lambda x, table, at: x @ (2.0 * table - table.detach()).T),
        )
    inside = "compute mean and deviation inside the graph"
    yield GradientMistake(
        "LayerNorm's deviation is a constant to the gradient", inside, Change(norm=constant_deviation)
    )
    yield GradientMistake("LayerNorm's mean is a constant to the gradient", inside, Change(norm=constant_mean))
    for names in itertools.chain(((name,) for name in DETACHED), DETACHED_TOGETHER):
        cause = f"no gradient flows back through {' and '.join(DETACHED[name] for name in names)}"
        yield GradientMistake(cause, REMEDY, watch=detaching(names, blocks))


def common_factor(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], allowed: float) -> float | None:
    """The common factor of all tensors, if there is one."""
    square = sum(float(t.double().square().sum()) for t in expected.values())
    if square == 0.0:
        return None
    product = sum(float((actual[n].double() * t.double()).sum()) for n, t in expected.items())
    factor = product / square
    rest = sum(float((actual[n].double() - factor * t.double()).square().sum()) for n, t in expected.items())
    return factor if math.sqrt(rest / square) <= allowed * abs(factor) and abs(factor - 1.0) > allowed else None
