"""Matrix-vector products (GEMV) on a CPU, for generating one text.

A new token is one row, and its product with a matrix takes as long as reading the matrix. torch's product of one row
reads with one thread; these read with all threads:

    in_parallel   bands of the matrix as one batched product; for float32 and float64
    Compiled      multiply and sum by torch.compile; for bfloat16, whose batched products are slow

`RowLinear` is a linear layer that uses one of them for one row, and torch's product for more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimized.compilation import vector_width

RowProduct = Callable[[Tensor, Tensor], Tensor]  # x (K,), weight (N, K) -> (N,), in the precision of the weight

BANDS = 64  # at most; more than the threads of most machines
WORTH_COMPILING = 2**19  # entries of a matrix; a smaller one fits a cache, and the call costs more


class RowLinear(nn.Module):
    """x weight^T + bias, as nn.Linear.

    Args:
        weight: (N, K)
        bias: (N,) or None
        product: for x of one row
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, product: RowProduct) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        y = self.product(x.flatten().to(self.weight.dtype), self.weight)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


def in_parallel(x: Tensor, weight: Tensor) -> Tensor:
    """One row times a matrix, in bands of equal height; see `RowProduct`."""
    N, K = weight.shape
    bands = math.gcd(N, BANDS)
    column = x.view(1, K).T.expand(bands, K, 1)  # with these strides torch takes the fast of its two ways
    return torch.bmm(weight.view(bands, N // bands, K), column).view(N)


class Compiled:
    """One row times a large matrix by code compiled once for all shapes; times a small one by torch."""

    @cached_property
    def multiply_and_sum(self) -> RowProduct:
        """Compiled at its first call; torch's compiler takes seconds to import."""
        compiled: RowProduct = torch.compile(multiply_and_sum, dynamic=True, options=vector_width())
        return compiled

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        if weight.numel() < WORTH_COMPILING:
            return matrix_product(x, weight)
        return self.multiply_and_sum(x, weight.detach())  # of a Parameter torch would compile each shape again


def multiply_and_sum(x: Tensor, weight: Tensor) -> Tensor:
    """In float32; only for torch.compile, which keeps the N x K products out of memory."""
    return (weight.float() * x.float()).sum(dim=-1).to(weight.dtype)


def matrix_product(x: Tensor, weight: Tensor) -> Tensor:
    """torch's own product."""
    return F.linear(x, weight)
