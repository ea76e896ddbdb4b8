"""bfloat16 by torch's autocast, for contenders that have no way of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Autocast(nn.Module):
    """A float32 model that computes in bfloat16 where `torch.autocast` thinks it safe; the weights stay float32.

    The context is opened for each call and closed before the backward pass. Left open over several steps it would go
    on using the bfloat16 copies of weights that the optimizer has changed meanwhile.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.kind = model, device.type

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V), bfloat16."""
        with torch.autocast(self.kind, torch.bfloat16):
            logits: Tensor = self.model(ids)
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, a scalar."""
        with torch.autocast(self.kind, torch.bfloat16):
            loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return loss

    @property
    def config(self) -> Any:
        """That of the model itself."""
        return self.model.config

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the model itself."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the model itself."""
        return self.model.load_state_dict(*args, **kwargs)
