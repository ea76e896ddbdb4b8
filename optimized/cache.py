"""The keys and values of the tokens so far, so that a new token costs one row and not the whole text again.

A static cache: room for every token from the start, so that nothing is moved when a text grows. Rows of a batch may
begin with padding on the left; each row counts its positions from its first real token.

B batch, T new tokens, S tokens so far and new ones, H heads, D head width, as everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reference.config import GPTConfig


class Cache:
    """Keys and values of every layer for a batch, and how much of it is filled.

    Args:
        config: of the model whose keys and values they are
        padding: (B,) int64, how many tokens at the left of each row are none
        room: tokens that fit, at most the model's block size
        dtype: of the keys and values
        padded: whether some row may have padding; False spares the mask. It is said and not looked up in `padding`,
            whose values are on the device.
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
        """What each of the next T tokens sees, (B or 1, 1, T, S) bool: no later token and no padding, but itself.

        None where all of them see everything.
        """
        if T == 1 and not self.padded:
            return None
        columns = torch.arange(self.length + T, device=self.padding.device)  # (S,)
        rows = columns[self.length :, None]  # (T, 1)
        if not self.padded:
            return (columns <= rows)[None, None]
        real = columns >= self.padding[:, None, None]  # (B, 1, S)
        # Padding sees itself. Nothing looks at what comes of it, but a row without any key would be not a number.
        return ((columns <= rows) & real | (columns == rows))[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Add a layer's k and v and look at all that is there: (B, H, T, D) each -> (B, H, T, D).

        `advance` follows when all layers have done so.
        """
        end = self.length + q.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], attn_mask=mask)

    def advance(self, T: int) -> None:
        """T tokens more are in every layer."""
        self.length += T
