"""The slot of attention: q, k, v (B, H, T, D) -> (B, H, T, D), causal.

ExplicitAttention   scores, mask and softmax written out: B H T T numbers are kept for the backward pass
FlashAttention      torch's scaled_dot_product_attention: in tiles, nothing of size T x T is kept
HalvedAttention     the same for a CPU, in two calls where one would compute the future only to throw it away
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.config import GPTConfig
from reference.functional import softmax

HALF = 256  # of the keys in a tile of the CPU's kernel


class ExplicitAttention(nn.Module):
    """The reference's attention; under autocast its softmax runs in float32 all the same."""

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
    """One library call (Dao et al. 2022, https://arxiv.org/abs/2205.14135), whichever kernel fits the device.

    It loses at a few tokens, where there is nothing to save and a call to set up.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)


class HalvedAttention(FlashAttention):
    """For torch's kernel for CPUs, which takes 512 keys at a time: the queries of half a tile have no use for the rest.

    Two calls compute three quarters of what one would. Above 512 tokens the kernel itself leaves tiles out.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T = q.shape[2]
        if not HALF < T <= 2 * HALF or (self.dropout and self.training):  # dropout has no such kernel
            return super().forward(q, k, v)
        seen = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()[HALF:]  # by the later queries
        early = F.scaled_dot_product_attention(q[:, :, :HALF], k[:, :, :HALF], v[:, :, :HALF], is_causal=True)
        late = F.scaled_dot_product_attention(q[:, :, HALF:], k, v, attn_mask=seen)
        return torch.cat([early, late], dim=2)
