"""The seams of precision: what products are computed in. Weights and optimizer moments stay in their own.

Exact       the precision of the weights
BFloat16    products in bfloat16; the residual stream, softmax, norms' statistics and the loss in float32
TF32        CUDA's float32 products with 10 bits of each input; any of the others inside
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from optimized.vocab import ExactTable

Model = TypeVar("Model", bound=nn.Module)


class Exact:
    """Nothing is changed."""

    def forward(self) -> AbstractContextManager[object]:
        """Around a forward pass."""
        return nullcontext()

    def step(self) -> AbstractContextManager[object]:
        """Around a forward and a backward pass."""
        return nullcontext()

    def working_copy(self, model: Model) -> Model:
        """The model to generate with: this one, or a copy that has its weights in the precision of the products."""
        return model


class BFloat16(Exact):
    """torch.autocast, for forward passes alone: the backward pass takes the precision of each operation from it."""

    def __init__(self, device: torch.device) -> None:
        self.kind = device.type
        self.copies: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Any]]
        self.copies = weakref.WeakKeyDictionary()

    def forward(self) -> AbstractContextManager[object]:
        return torch.autocast(self.kind, dtype=torch.bfloat16)

    def working_copy(self, model: Model) -> Model:
        """A copy with the matrices in bfloat16: autocast would make one for each token. Kept until a weight changes.

        In place or by load_state_dict, that is: of what is written through `.data` torch keeps no count.
        """
        versions = tuple(number for p in model.parameters() for number in (p._version, p.data_ptr()))
        kept = self.copies.get(model)
        if kept is None or kept[0] != versions:
            kept = versions, in_bfloat16(model)
            self.copies[model] = kept
        return kept[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> BFloat16:
        return BFloat16(torch.device(self.kind))  # working copies are not copied along: each would hold the one before


def in_bfloat16(model: Model) -> Model:
    """A copy of a model, in eval mode, whose products under autocast find their matrices in bfloat16 already.

    The embedding of tokens stays as it is: it starts the residual stream, which is float32.
    """
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}  # shared, not copied
    twin = copy.deepcopy(model, memo).eval()
    for module in twin.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
        elif isinstance(module, ExactTable):
            module.head = module.weight.detach().to(torch.bfloat16)
    return twin


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

    def working_copy(self, model: Model) -> Model:
        return self.inner.working_copy(model)


@contextmanager
def tf32_products() -> Iterator[None]:
    """torch's setting is one for the whole process; outside it is as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products: avx512_bf16, AMX, or Arm's bf16."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return supported and any(found for flag, found in capabilities.items() if "bf16" in flag)
