"""Text from a model, one token after another, with the keys and values of earlier tokens kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optimized.cache import Cache
from optimized.gpt import GPT
from reference.ids import check_shape
from reference.sampling import check_prompt, next_token


class CachedGPT:
    """A model that is shown a text piece by piece, and answers each with the logits of its tokens.

    Args:
        model: of `optimized.build`, in eval mode: with dropout a text would have no meaning
        padding: (B,) int64, how many tokens at the left of each row are none; or the number of rows, without padding,
            which spares the mask
        room: tokens that fit; the model's block size if None

    Between two pieces the weights must not change: the keys and values of the first would be those of other weights.
    """

    def __init__(self, model: GPT, padding: Tensor | int, room: int | None = None) -> None:
        self.config, self.precision, device = model.config, model.precision, model.wpe.weight.device
        self.model = model.precision.inference_copy(model)
        self.blocks: list[Any] = list(self.model.h)
        padded = not isinstance(padding, int)  # of a tensor of zeros too, which nobody looks at
        if isinstance(padding, int):
            padding = torch.zeros(padding, dtype=torch.int64, device=device)
        with self.precision.forward():
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else model.wpe.weight.dtype
        room = model.config.block_size if room is None else room
        self.cache = Cache(model.config, padding, room, dtype, padded)

    @torch.no_grad()
    def extend(self, ids: Tensor, last: int | None = None) -> Tensor:
        """Show the model the next tokens of each row.

        Args:
            ids: (B, T) int64, each in [0, V), as for `GPT.forward`; of a padded token any of them will do
            last: for how many of them, at the end, logits are wanted; all if None

        Returns (B, last, V). More tokens than fit, or than there are, are a ValueError.
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
                q, k, v = block.attn.qkv(block.ln_1(x))
                x = x + block.attn.merge(cache.attend(layer, q, k, v, mask))
                x = x + block.mlp(block.ln_2(x))
            cache.advance(T)
            return model.wte.logits(model.ln_f(x[:, -last:]))


@torch.no_grad()
def cached_stream(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    padding: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield one (B, 1) tensor of new ids at a time; arguments as for `generate`.

    Beyond the block size the model sees the last block_size tokens, numbered from position 0 again, as the reference
    does it. Then every token has another position than before, and nothing that was kept is of use.

    The values of `ids` and `padding` are looked at before the first token; from there on nothing waits for the device.
    """
    check_prompt(ids, model.config.vocab_size, max_new_tokens, temperature, top_k, top_p)
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
        new = next_token(logits, temperature, top_k, top_p, generator)
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
        model: of `optimized.build`; its recipe says whether keys and values are kept
        padding: (B,) int64, how many tokens at the left of each row are none, as `left_pad` gives it; needs kv_cache

    The same generator state gives the same tokens as `reference.generate` on the same weights.
    """
    more = {} if padding is None else {"padding": padding}
    if more and model.stream is not cached_stream:
        raise ValueError("prompts of unequal length need the rung kv_cache: build the model with it")
    return torch.cat(
        [ids, *model.stream(model, ids, max_new_tokens, temperature, top_k, top_p, generator, **more)], dim=1
    )


def left_pad(prompts: Sequence[Sequence[int]], device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length as one batch: ids (B, longest) and how much padding each row begins with (B,)."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError(f"{len(prompts)} prompts, some without a token: give at least one, none of them empty")
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    return ids, torch.tensor([longest - len(prompt) for prompt in prompts], device=device)


def check_padding(padding: Tensor, ids: Tensor) -> int:
    """Raise a ValueError unless every row has a token of its own after its padding; returns the longest padding.

    Looks at the values of `padding`, and so waits for the device that it is on.
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
