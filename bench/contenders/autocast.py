"""bfloat16 by torch's autocast, for contenders without their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Autocast(nn.Module):
    """A float32 model under `torch.autocast` to bfloat16; the weights stay float32.

    The context is opened for each call and closed before the backward pass. If it stayed open over several steps,
    autocast would use cached bfloat16 copies of weights that the optimizer has changed.
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
        """The inner model's config."""
        return self.model.config

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's state dict."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the inner model."""
        return self.model.load_state_dict(*args, **kwargs)
