"""The slot of the vocabulary: one table that reads tokens and scores them.

    ExactTable    V rows
    PaddedTable   V rounded up to a multiple of 128, 50257 -> 50304: products whose edges fall on tile boundaries

Rows beyond V are zero and stay zero: no id selects them, and no logit of theirs leaves the model or takes part in
a softmax, so their gradient is exactly zero; without a gradient, AdamW has nothing to move and nothing to decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimized.recipe import VOCAB_MULTIPLE
from reference.config import GPTConfig


class ExactTable(nn.Module):
    """The tied table as it is."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.weight = nn.Parameter(torch.zeros(self.rows(config.vocab_size), config.n_embd))
        self.head: nn.Module | None = None  # what scores instead of `weight`, in a copy of inference_copies.py

    def rows(self, vocab_size: int) -> int:
        """Rows in memory for so many tokens."""
        return vocab_size

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., C)."""
        return F.embedding(ids, self.weight)

    def logits(self, x: Tensor) -> Tensor:
        """x (..., C) -> scores of the V tokens (..., V)."""
        scores: Tensor = F.linear(x, self.weight) if self.head is None else self.head(x)
        return scores


class PaddedTable(ExactTable):
    """The table with zero rows below it.

    It loses where the kernels do not care about alignment: then it is 0.1 % more work at GPT-2's vocabulary, and a
    noticeable share at a tiny one.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.register_state_dict_post_hook(cut)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(pad)  # type: ignore[no-untyped-call]

    def rows(self, vocab_size: int) -> int:
        return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def forward(self, ids: Tensor) -> Tensor:
        # The rows beyond V can be read, but stand for no token: their ids become one that torch refuses as it does any
        # that is out of range. No value comes to the host for that.
        return super().forward(ids.masked_fill(ids >= self.vocab_size, -1))

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x)[..., : self.vocab_size]


def cut(module: PaddedTable, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Leave the padding out of the state dict, in place."""
    state[f"{prefix}weight"] = state[f"{prefix}weight"][: module.vocab_size]


def pad(module: PaddedTable, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Add it when loading, in place; a table of another shape, with padding of its own say, is an error."""
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
