"""The slots of precision: what products are computed in. Weights and optimizer moments stay in their own.

Exact       the precision of the weights
BFloat16    products in bfloat16; the residual stream, softmax, norms' statistics and the loss in float32
TF32        CUDA's float32 products with 10 bits of each input; any of the others inside
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from optimized.gemv import RowProduct, matrix_product
from optimized.inference_copies import InferenceCopies, Model


class Exact:
    """Nothing is changed.

    Args:
        product: of one row, for generation; None for the usual one
    """

    def __init__(self, product: RowProduct | None = None) -> None:
        self.copies = InferenceCopies(torch.float32, product)

    def forward(self) -> AbstractContextManager[object]:
        """Around a forward pass."""
        return nullcontext()

    def step(self) -> AbstractContextManager[object]:
        """Around a forward and a backward pass."""
        return nullcontext()

    def inference_copy(self, model: Model) -> Model:
        """The model to generate with: this one, or a copy that is better at it."""
        return model if self.copies.product is None else self.copies.of(model)


class BFloat16(Exact):
    """torch.autocast, for forward passes alone: the backward pass takes the precision of each operation from it."""

    def __init__(self, device: torch.device, product: RowProduct | None = None) -> None:
        self.kind = device.type
        self.copies = InferenceCopies(torch.bfloat16, product or matrix_product)

    def forward(self) -> AbstractContextManager[object]:
        return torch.autocast(self.kind, dtype=torch.bfloat16)


class TF32(Exact):
    """float32 products by tensor cores, in the backward pass too if it runs inside `step`."""

    def __init__(self, inner: Exact) -> None:
        self.inner = inner

    @contextmanager
    def forward(self) -> Iterator[None]:
        with tf32_products(), self.inner.forward():
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        with tf32_products(), self.inner.step():
            yield

    def inference_copy(self, model: Model) -> Model:
        return self.inner.inference_copy(model)


@contextmanager
def tf32_products() -> Iterator[None]:
    """torch's setting is one for the whole process; outside it is as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
