"""Copies of a model for inference, kept until its weights change."""

from __future__ import annotations

import copy
import weakref
from typing import Any, TypeVar

import torch
from torch import nn

from optimized.embedding import ExactTable
from optimized.gemv import RowLinear, RowProduct

Model = TypeVar("Model", bound=nn.Module)


class InferenceCopies:
    """One copy per model, in eval mode, with other linear layers; all other weights are shared.

    In bfloat16 the copy holds its matrices in bfloat16: autocast would convert them for each token. The token embedding
    keeps its precision, because it starts the residual stream.

    Args:
        dtype: bfloat16; any other keeps the precision of the matrices
        product: of one row; see gemv.py
    """

    def __init__(self, dtype: torch.dtype, product: RowProduct | None) -> None:
        self.dtype, self.product = dtype, product
        self.known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Any]] = weakref.WeakKeyDictionary()

    def of(self, model: Model) -> Model:
        """The copy of a model with its current weights.

        Notices changes in place and by load_state_dict, but not writes through `.data`, which torch does not count.
        """
        versions = tuple(number for p in model.parameters() for number in (p._version, p.data_ptr()))
        kept = self.known.get(model)
        if kept is None or kept[0] != versions:
            kept = versions, self.made(model)
            self.known[model] = kept
        twin: Model = kept[1]
        return twin

    def made(self, model: Model) -> Model:
        memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}  # shared, not copied
        twin = copy.deepcopy(model, memo).eval()
        for module in list(twin.modules()):
            if isinstance(module, ExactTable):
                module.head = self.layer(module.weight, None)
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, self.layer(child.weight, child.bias))
        return twin

    def layer(self, weight: torch.Tensor, bias: torch.Tensor | None) -> RowLinear:
        assert self.product is not None
        if self.dtype == torch.bfloat16:
            weight, bias = weight.detach().to(self.dtype), None if bias is None else bias.detach().to(self.dtype)
        return RowLinear(weight, bias, self.product)

    def __deepcopy__(self, memo: dict[int, Any]) -> InferenceCopies:
        return InferenceCopies(self.dtype, self.product)  # without the known copies
