"""The generation slot: sampling with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optimized.cache import Cache
from optimized.gpt import GPT
from reference.ids import check_shape
from reference.sampling import Sampling, check_prompt, next_token


class CachedGPT:
    """A model with a KV cache, which reads a text in pieces and returns the logits of each.

    Args:
        model: of `optimized.build`, in eval mode
        padding: (B,) int64, number of padding tokens at the left of each row; or the number of rows, without padding,
            which saves the mask
        room: capacity in tokens; None for the model's block size

    The weights must not change between pieces: cached keys and values would be those of the old weights.
    """

    def __init__(self, model: GPT, padding: Tensor | int, room: int | None = None) -> None:
        self.config, self.precision, device = model.config, model.precision, model.wpe.weight.device
        self.model = model.precision.inference_copy(model)
        self.blocks: list[Any] = list(self.model.h)
        padded = not isinstance(padding, int)  # for a tensor of zeros too: its values are not read
        if isinstance(padding, int):
            padding = torch.zeros(padding, dtype=torch.int64, device=device)
        with self.precision.forward():
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else model.wpe.weight.dtype
        room = model.config.block_size if room is None else room
        self.cache = Cache(model.config, padding, room, dtype, padded)

    @torch.no_grad()
    def extend(self, ids: Tensor, last: int | None = None) -> Tensor:
        """Read the next tokens of each row.

        Args:
            ids: (B, T) int64, each in [0, V), as for `GPT.forward`; any id for padding
            last: number of positions at the end to return logits for; None for all

        Returns (B, last, V). Raises ValueError for more tokens than fit, and for `last` outside 1 to T.
        """
        check_shape(ids, self.config)  # not the values: that would wait for the device at each token
        cache, T = self.cache, ids.shape[1]
        if len(ids) != len(cache.padding):
            raise ValueError(f"{len(ids)} rows for a cache of {len(cache.padding)}: give as many")
        if cache.length + T > cache.room:
            raise ValueError(f"{T} tokens after {cache.length}: the cache has room for {cache.room} in all")
        last = T if last is None else last
        if not 1 <= last <= T:
            raise ValueError(f"the last {last} of {T} tokens: give 1 to {T}")
        model, blocks = self.model, self.blocks
        with self.precision.forward():
            x = model.wte(ids) + model.wpe(cache.positions(T))  # (B, T, C)
            mask = cache.mask(T)
            for layer, block in enumerate(blocks):
                x = block(x, partial(cache.attend, layer, mask=mask))
            cache.advance(T)
            return model.wte.logits(model.ln_f(x[:, -last:]))


@torch.no_grad()
def cached_stream(
    model: GPT, ids: Tensor, max_new_tokens: int, sampling: Sampling, padding: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield one (B, 1) tensor of new ids at a time; arguments as for `generate`.

    Beyond the block size the model sees the last block_size tokens, numbered from position 0 again, as in the
    reference. Then every token has a new position, so the cache is computed again.

    The values of `ids` and `padding` are checked before the first token; after that nothing waits for the device.
    """
    check_prompt(ids, model.config.vocab_size, max_new_tokens, sampling)
    most = 0 if padding is None else check_padding(padding, ids)
    block = model.config.block_size
    cached, seen = None, 0
    for _ in range(max_new_tokens):
        width = ids.shape[1]
        if cached is None or width > block:
            first = max(0, width - block)  # column
            room = min(block, width - first + max_new_tokens)
            lead = len(ids) if padding is None or most <= first else (padding - first).clamp(min=0)
            cached, seen = CachedGPT(model, lead, room), first
        logits = cached.extend(ids[:, seen:], last=1)[:, -1]  # (B, V)
        seen = width
        new = next_token(logits, *sampling)
        ids = torch.cat([ids, new], dim=1)
        yield new


def generate(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    padding: Tensor | None = None,
) -> Tensor:
    """Extend each row of `ids` by sampled tokens; arguments and result as those of `reference.generate`.

    Args:
        model: of `optimized.build`; its recipe decides about the KV cache
        padding: (B,) int64, number of padding tokens at the left of each row, from `left_pad`; needs kv_cache

    The same generator state gives the same tokens as `reference.generate` on the same weights.
    """
    more = {} if padding is None else {"padding": padding}
    if more and model.stream is not cached_stream:
        raise ValueError("prompts of unequal length need the rung kv_cache: build the model with it")
    sampling = Sampling(temperature, top_k, top_p, generator)
    return torch.cat([ids, *model.stream(model, ids, max_new_tokens, sampling, **more)], dim=1)


def left_pad(prompts: Sequence[Sequence[int]], device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length as one batch: ids (B, longest) and the padding of each row (B,)."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError(f"{len(prompts)} prompts, some without a token: give at least one, none of them empty")
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    return ids, torch.tensor([longest - len(prompt) for prompt in prompts], device=device)


def check_padding(padding: Tensor, ids: Tensor) -> int:
    """Raise a ValueError unless every row has a token after its padding; returns the longest padding.

    Reads the values of `padding`, so waits for their device.
    """
    if padding.shape != (len(ids),) or padding.dtype != torch.int64:
        raise ValueError(
            f"padding of shape {tuple(padding.shape)} and type {padding.dtype}: give int64, one for each of the "
            f"{len(ids)} rows"
        )
    if len(ids) == 0:
        return 0
    least, most = (int(end) for end in torch.stack(padding.aminmax()).tolist())
    if not 0 <= least <= most < ids.shape[1]:
        raise ValueError(
            f"padding from {least} to {most} for rows of {ids.shape[1]} tokens: give 0 to {ids.shape[1] - 1}"
        )
    return most
