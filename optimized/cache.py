"""The KV cache: keys and values of earlier tokens, so that a new token computes one row and not the whole text.

A static cache, allocated once for all tokens, so that nothing is copied when a text grows. Rows of a batch may have
left padding; each row counts positions from its first real token.

B batch, T new tokens, S earlier and new tokens together, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reference.config import GPTConfig


class Cache:
    """Keys and values of every layer for a batch, and the number of tokens in it.

    Args:
        config: of the model
        padding: (B,) int64, number of padding tokens at the left of each row
        room: capacity in tokens, at most the model's block size
        dtype: of the keys and values
        padded: whether any row may have padding; False saves the mask. An argument, because reading `padding` would
            wait for the device.
    """

    def __init__(self, config: GPTConfig, padding: Tensor, room: int, dtype: torch.dtype, padded: bool = True) -> None:
        if not 1 <= room <= config.block_size:
            raise ValueError(f"a cache for {room} tokens: give 1 to {config.block_size} (the model's block size)")
        shape = (config.n_layer, len(padding), config.n_head, room, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=padding.device)
        self.values = torch.zeros(shape, dtype=dtype, device=padding.device)
        self.padding, self.padded, self.room, self.length = padding, padded, room, 0

    def positions(self, T: int) -> Tensor:
        """The positions of the next T tokens of each row: (B, T); padding gets 0."""
        columns = torch.arange(self.length, self.length + T, device=self.padding.device)
        return (columns - self.padding[:, None]).clamp(min=0)

    def mask(self, T: int) -> Tensor | None:
        """Attention mask of the next T tokens, (B or 1, 1, T, S) bool: no later token and no padding, except itself.

        None if every token may attend to all.
        """
        if T == 1 and not self.padded:
            return None
        columns = torch.arange(self.length + T, device=self.padding.device)  # (S,)
        rows = columns[self.length :, None]  # (T, 1)
        if not self.padded:
            return (columns <= rows)[None, None]
        real = columns >= self.padding[:, None, None]  # (B, 1, S)
        # Padding attends to itself: its result is not used, but a row without keys would be NaN.
        return ((columns <= rows) & real | (columns == rows))[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Store a layer's k and v, and attend to all tokens so far: (B, H, T, D) each -> (B, H, T, D).

        Call `advance` after all layers.
        """
        end = self.length + q.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], attn_mask=mask)

    def advance(self, T: int) -> None:
        """Count T more tokens, which every layer has stored."""
        self.length += T
