"""The attention slot: q, k, v (B, H, T, D) -> (B, H, T, D), causal.

ExplicitAttention   scores, mask and softmax written out; keeps B H T T numbers for the backward pass
FlashAttention      torch's scaled_dot_product_attention, in tiles; keeps nothing of size T x T
HalvedAttention     the same on a CPU in two calls, which skip a quarter of the masked scores
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.config import GPTConfig
from reference.functional import softmax

HALF = 256  # half of the 512 keys in a tile of the CPU kernel


class ExplicitAttention(nn.Module):
    """The reference's attention, with the softmax in float32 at least, under autocast too."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, D = q.shape[-2:]
        scores = q @ k.transpose(-2, -1)  # (B, H, T, T)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / math.sqrt(D)
        future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(diagonal=1)
        weights = self.dropout(softmax(scores.masked_fill(future, -math.inf)))
        return weights @ v


class FlashAttention(nn.Module):
    """One library call, with the device's own kernel (Dao et al. 2022, https://arxiv.org/abs/2205.14135).

    Slower for a few tokens, where the call's overhead dominates.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)


class HalvedAttention(FlashAttention):
    """For torch's CPU kernel, which takes tiles of 512 keys: the first 256 queries need only the first 256 keys.

    Two calls compute three quarters of the scores of one. Above 512 tokens the kernel itself skips masked tiles.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T = q.shape[2]
        if not HALF < T <= 2 * HALF or (self.dropout and self.training):  # with dropout torch uses another kernel
            return super().forward(q, k, v)
        seen = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()[HALF:]  # (T - 256, T), of the later queries
        early = F.scaled_dot_product_attention(q[:, :, :HALF], k[:, :, :HALF], v[:, :, :HALF], is_causal=True)
        late = F.scaled_dot_product_attention(q[:, :, HALF:], k, v, attn_mask=seen)
        return torch.cat([early, late], dim=2)
