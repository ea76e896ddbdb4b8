"""One whole training step: forward, backward, clip, AdamW."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference.training.adamw import AdamW, clip_gradients
from reference.training.defaults import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY


class TrainingStep:
    """A model with its optimizer; calling it trains the model on one batch. Made by `build_step`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: AdamW,
        learning_rate: float | Callable[[int], float],
        clip: float,
    ) -> None:
        self.model, self.optimizer, self.learning_rate, self.clip = model, optimizer, learning_rate, clip
        self.gradient_norm = torch.tensor(0.0)  # of the last step, before clipping

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Train on ids and targets, both (B, T) int64; returns the loss before the update, a scalar."""
        rate = self.learning_rate
        self.optimizer.learning_rate = rate(self.optimizer.steps) if callable(rate) else rate
        self.optimizer.zero_grad()
        loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.optimizer.parameters.values() if p.grad is not None]
        self.gradient_norm = clip_gradients(gradients, self.clip)
        self.optimizer.step()
        return loss.detach()


def build_step(
    model: nn.Module,
    learning_rate: float | Callable[[int], float] = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    betas: tuple[float, float] = BETAS,
    clip: float = CLIP,
) -> TrainingStep:
    """A training step for any model with `loss(ids, targets)`.

    Args:
        model: trained in place, in its current mode (train or eval)
        learning_rate: a number, or a function of the step number counted from 0
        weight_decay, betas: see `AdamW`
        clip: largest joint L2 norm of the gradients; infinity switches clipping off

    Raises ValueError for invalid settings.
    """
    if not clip > 0.0:
        raise ValueError(f"clip = {clip}: give a number above 0; inf switches clipping off")
    optimizer = AdamW(model, weight_decay=weight_decay, betas=betas)
    return TrainingStep(model, optimizer, learning_rate, clip)
