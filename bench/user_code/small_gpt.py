"""The small model that a user's training step or validation loss is given."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from reference.config import GPTConfig
from reference.gpt import GPT

Batch = tuple[Tensor, Tensor]  # ids and targets, (B, T) int64 each
CONFIG = GPTConfig(block_size=32, vocab_size=97, n_layer=2, n_head=4, n_embd=32)


class UserGPT(GPT):
    """The reference GPT with nanoGPT's call: ids -> logits, ids and targets -> (logits, loss). Targets of -1 and -100
    are ignored."""

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(ids)
        if targets is None:
            return logits
        targets = targets.flatten().masked_fill(targets.flatten() < 0, -1)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over targets."""
        loss: Tensor = self(ids, targets)[1]
        return loss
