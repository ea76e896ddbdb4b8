"""The precision slot: the precision of matrix products. Weights and optimizer moments keep theirs.

Exact       the precision of the weights
BFloat16    products in bfloat16; residual stream, softmax, norm statistics and loss in float32
TF32        float32 products on CUDA with inputs rounded to 10 bits; wraps one of the others
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from optimized.gemv import RowProduct, matrix_product
from optimized.inference_copies import InferenceCopies, Model


class Exact:
    """Products in the precision of the weights.

    Args:
        product: of one row, for generation; None for torch's
    """

    def __init__(self, product: RowProduct | None = None) -> None:
        self.copies = InferenceCopies(torch.float32, product)

    def forward(self) -> AbstractContextManager[object]:
        """A context for a forward pass."""
        return nullcontext()

    def step(self) -> AbstractContextManager[object]:
        """A context for a forward and a backward pass."""
        return nullcontext()

    def inference_copy(self, model: Model) -> Model:
        """The model to generate with: this one, or a faster copy."""
        return model if self.copies.product is None else self.copies.of(model)


class BFloat16(Exact):
    """torch.autocast around forward passes; backward operations use the precision of their forward ones."""

    def __init__(self, device: torch.device, product: RowProduct | None = None) -> None:
        self.kind = device.type
        self.copies = InferenceCopies(torch.bfloat16, product or matrix_product)

    def forward(self) -> AbstractContextManager[object]:
        return torch.autocast(self.kind, dtype=torch.bfloat16)


class TF32(Exact):
    """float32 products by tensor cores; for the backward pass too inside `step`."""

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
    """Inside, torch's process-wide setting is TF32; afterwards it is restored."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
