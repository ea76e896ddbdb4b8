"""From logits to tokens: greedy, temperature, top-k, top-p, one token after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reference.functional import softmax
from reference.ids import check_type, check_values


class Sampling(NamedTuple):
    """How tokens are drawn; see `generate`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set logits below the k-th largest of their row to -inf; ties with the k-th stay.

    Args:
        logits: (..., V)
        k: at least 1; k >= V keeps all
    """
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable tokens up to a total probability of p, at least one; set other logits to -inf.

    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751, section 3.1. Sorted from the smallest upwards and cut
    at 1 - p, so that equal probabilities fall on the same side as in transformers.

    Args:
        logits: (..., V)
        p: above 0, at most 1; 1 keeps all
    """
    if p == 1.0:
        return logits  # not even a token that rounding would cut from the tail
    ascending, order = logits.sort(dim=-1)
    dropped = softmax(ascending).cumsum(dim=-1) <= 1.0 - p
    dropped[..., -1] = False
    return logits.masked_fill(dropped.scatter(-1, order, dropped), -math.inf)


def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Sampling distribution of the next token: logits (B, V) -> probabilities (B, V).

    Applies temperature, then top-k, then top-p, in the order of transformers. Temperature 0 puts all probability on the
    largest logit (the first of equals).
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0.0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return softmax(logits)


def next_token(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """Draw one token for each row: logits (B, V) -> ids (B, 1)."""
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)  # the first of equals; no random number is used
    probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
    return torch.multinomial(probabilities, num_samples=1, generator=generator)


@torch.no_grad()
def stream(model: Any, ids: Tensor, max_new_tokens: int, sampling: Sampling) -> Iterator[Tensor]:
    """Yield one (B, 1) tensor of new ids at a time; arguments as for `generate`.

    Beyond the block size the model sees the last block_size tokens, numbered from position 0 again. The values of `ids`
    are checked before the first token; after that nothing waits for the device.
    """
    check_prompt(ids, model.config.vocab_size, max_new_tokens, sampling)
    for _ in range(max_new_tokens):
        logits = model(ids[:, -model.config.block_size :])[:, -1]  # (B, V)
        new = next_token(logits, *sampling)
        ids = torch.cat([ids, new], dim=1)
        yield new


def generate(
    model: Any,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Extend each row of `ids` by sampled tokens.

    Args:
        model: `model(ids) -> logits`, with `model.config.block_size` and `.vocab_size`; in eval mode, or its dropout
            takes part
        ids: (B, T) int64, each in [0, V), T at least 1
        max_new_tokens: number of tokens to append
        temperature: divides the logits; 0 takes the most probable token, without randomness
        top_k: draw only from the k largest logits (and ties with the k-th); None for all
        top_p: draw only from the most probable tokens that together reach p; None for all
        generator: source of randomness, on the model's device; None for torch's global one

    Returns (B, T + max_new_tokens): the prompt and what follows. The same generator state gives the same tokens as
    `generate` of transformers with the same settings. Raises ValueError for invalid ids and settings.
    """
    sampling = Sampling(temperature, top_k, top_p, generator)
    return torch.cat([ids, *stream(model, ids, max_new_tokens, sampling)], dim=1)


def check_prompt(ids: Tensor, vocab_size: int, max_new_tokens: int, sampling: Sampling) -> None:
    """Raise a ValueError for an invalid prompt or settings. Reads the values of `ids`, so waits for their device."""
    check_sampling(sampling.temperature, sampling.top_k, sampling.top_p)
    if max_new_tokens < 0:
        raise ValueError(f"{max_new_tokens} new tokens: give 0 or more")
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(f"ids of shape {tuple(ids.shape)}: give (batch, time) with at least one token to go on from")
    check_type(ids)
    check_values(ids, vocab_size)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise a ValueError for invalid sampling settings."""
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"temperature {temperature}: give 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top-k {top_k}: give 1 or more, or leave it out to draw from all tokens")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top-p {top_p}: give a number above 0, at most 1, or leave it out")
