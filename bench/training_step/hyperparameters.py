"""The hyperparameters of a training step under test: short, so that 20 steps see warm-up, cosine and floor."""

from __future__ import annotations

from dataclasses import dataclass

from reference.training.defaults import BETAS, CLIP, EPS, WEIGHT_DECAY
from reference.training.schedule import learning_rate


@dataclass(frozen=True)
class Hyperparameters:
    """What `build_step(model, hyperparameters)` is given."""

    learning_rate: float = 1e-3  # the peak
    floor: float = 1e-4  # the learning rate after `total` steps
    warmup: int = 5  # steps; step s of them has learning_rate (s + 1) / warmup
    total: int = 16  # steps until the floor
    micro_batches: int = 3
    weight_decay: float = WEIGHT_DECAY  # on tensors of two dimensions
    betas: tuple[float, float] = BETAS
    eps: float = EPS
    clip: float = CLIP  # largest joint L2 norm of the gradients

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(step, peak=self.learning_rate, warmup=self.warmup, total=self.total, floor=self.floor)
