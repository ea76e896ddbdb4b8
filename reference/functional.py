"""The five functions of GPT-2 by hand, from + - * / exp log, sums, maxima and matrix products.

    softmax            stable for any finite logits
    layer_norm         Ba, Kiros and Hinton 2016
    gelu               Hendrycks and Gimpel 2016, the tanh form that GPT-2 was trained with
    cross_entropy      mean over the targets that are not ignored
    causal_attention   Vaswani et al. 2017, equation 1, with a mask

Shapes: B batch, T time, C width, H heads, D = C / H head width, V vocabulary. Every function works on the last
dimension(s) and leaves any leading ones as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reference.mkl_kernels import choose_kernels

choose_kernels()

IGNORED = -1  # a target of -1 takes no part in the loss


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last dimension.

    Subtracting the row's maximum cancels in the fraction and keeps exp from overflowing. A logit of -inf gets
    exactly zero; a row of nothing but -inf has no softmax and gives NaN.

    >>> softmax(torch.tensor([0.0, math.log(3.0)]))
    tensor([0.2500, 0.7500])
    """
    exponents = (x - x.amax(dim=-1, keepdim=True)).exp()
    return exponents / exponents.sum(dim=-1, keepdim=True)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, https://arxiv.org/abs/1607.06450.

    Args:
        x: (..., C)
        weight, bias: (C,); a bias of None is left out
        eps: inside the root; GPT-2 uses 1e-5

    The variance divides by C, not by C - 1.
    """
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred * centred).mean(dim=-1, keepdim=True)
    normal = centred / (variance + eps).sqrt() * weight
    return normal if bias is None else normal + bias


def gelu(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), https://arxiv.org/abs/1606.08415, section 2.

    This is an approximation of x P(X <= x) for normal X. The exact form uses erf and differs by up to 5e-4:
    GPT-2's weights were trained with this one.
    """
    return 0.5 * x * (1.0 + (math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)).tanh())


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] over the targets that are not -1, in nats.

    Args:
        logits: (..., V)
        targets: (...) int64, each in [0, V) or -1

    Returns a scalar. With nothing but ignored targets the mean is of no numbers: NaN, as in torch.
    """
    counted = targets != IGNORED
    logits = logits - logits.amax(dim=-1, keepdim=True)
    log_sum = logits.exp().sum(dim=-1).log()  # log of the softmax's denominator
    index = targets.masked_fill(~counted, 0)  # any valid column: its value is dropped below
    chosen = logits.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    losses = (log_sum - chosen).masked_fill(~counted, 0.0)  # not indexed: only the device knows how many count
    return losses.sum() / counted.sum()


def causal_attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) where no query sees a later key.

    Args:
        q, k: (..., T, D)

    Returns (..., T, T): row t sums to 1 over the columns 0..t and is exactly zero after them.
    """
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (..., T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(diagonal=1)
    return softmax(scores.masked_fill(future, -math.inf))


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention(Q, K, V) of https://arxiv.org/abs/1706.03762, equation 1, causal.

    Args:
        q, k, v: (..., T, D)

    Returns (..., T, D): each position's average of the values it may see.
    """
    return causal_attention_weights(q, k) @ v
