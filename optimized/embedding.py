"""The embedding slot: the tied token table, as embedding and as output head.

    ExactTable    V rows
    PaddedTable   V rounded up to a multiple of 128, 50257 -> 50304, so that products end on tile boundaries

Rows beyond V are zero and stay zero: no id selects them, and their logits neither leave the model nor enter a softmax.
So their gradient is exactly zero, and AdamW moves and decays nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimized.recipe import VOCAB_MULTIPLE
from reference.config import GPTConfig


class ExactTable(nn.Module):
    """The tied table with V rows."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.weight = nn.Parameter(torch.zeros(self.rows(config.vocab_size), config.n_embd))
        self.head: nn.Module | None = None  # replaces `weight` as head in a copy of inference_copies.py

    def rows(self, vocab_size: int) -> int:
        """The number of rows for a vocabulary."""
        return vocab_size

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., C)."""
        return F.embedding(ids, self.weight)

    def logits(self, x: Tensor) -> Tensor:
        """x (..., C) -> scores of the V tokens (..., V)."""
        scores: Tensor = F.linear(x, self.weight) if self.head is None else self.head(x)
        return scores


class PaddedTable(ExactTable):
    """The table with zero rows below.

    Slower if kernels do not benefit from alignment: 0.1 % more work at GPT-2's vocabulary, much more at a tiny one.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.register_state_dict_post_hook(cut)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(pad)  # type: ignore[no-untyped-call]

    def rows(self, vocab_size: int) -> int:
        return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def forward(self, ids: Tensor) -> Tensor:
        # An id of a padding row becomes -1, which torch rejects like any id out of range, without reading a value.
        return super().forward(ids.masked_fill(ids >= self.vocab_size, -1))

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x)[..., : self.vocab_size]


def cut(module: PaddedTable, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Remove the padding from the state dict, in place."""
    state[f"{prefix}weight"] = state[f"{prefix}weight"][: module.vocab_size]


def pad(module: PaddedTable, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Add the padding when loading, in place; a table of another shape is an error."""
    weight, own = state.get(f"{prefix}weight"), module.weight.detach()
    if weight is not None and weight.shape != own[: module.vocab_size].shape:
        *_, errors = rest
        errors.append(
            f"size mismatch for {prefix}weight: copying a param with shape {weight.shape} from checkpoint, the shape "
            f"in current model is {own[: module.vocab_size].shape}."
        )
        state[f"{prefix}weight"] = own  # one message is enough
    elif weight is not None:
        state[f"{prefix}weight"] = F.pad(weight, (0, 0, 0, len(own) - module.vocab_size))
