"""One training step: forward, backward, clip, AdamW, in one or several processes.

A batch may be split into micro-batches and over processes. Each piece is weighted by its number of targets, so that the
gradient is always that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from optimized.optimizer import CanonicalAdamW, FusedAdamW
from optimized.precision import Exact
from reference.functional import IGNORED


class Exchange(Protocol):
    """Communication of the processes that share a batch; see distributed.py."""

    world: int

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, whose backward pass averages gradients over all processes."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors."""

    def accumulating(self) -> AbstractContextManager[object]:
        """Inside, gradients accumulate in each process and are not exchanged."""


class TrainingStep:
    """A model with its optimizer; calling it trains the model on one batch. Made by `optimized.build_step`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: CanonicalAdamW | FusedAdamW,
        learning_rate: float | Callable[[int], float],
        clip: float,
        precision: Exact,
        exchange: Exchange,
        micro_batch: int | None,
    ) -> None:
        self.model, self.optimizer, self.learning_rate, self.clip = model, optimizer, learning_rate, clip
        self.precision, self.exchange, self.micro_batch = precision, exchange, micro_batch
        self.gradient_norm = torch.tensor(0.0)  # of the last step, before clipping

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Train on this process's share of a batch, ids and targets both (B, T) int64.

        Returns the mean loss over the whole batch before the update, a scalar, on every process.
        """
        rate = self.learning_rate
        self.optimizer.learning_rate = rate(self.optimizer.steps) if callable(rate) else rate
        self.optimizer.zero_grad()
        with self.precision.step():
            loss = self.gradients(ids, targets)
        self.gradient_norm = self.optimizer.clip(self.clip)
        self.optimizer.step()
        return loss

    def gradients(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of the whole batch's mean loss into the parameters; returns that loss."""
        rows = self.micro_batch or len(ids)
        pieces = list(zip(torch.split(ids, rows), torch.split(targets, rows), strict=True))
        if len(pieces) == 1 and self.exchange.world == 1:
            loss = self.exchange.loss(ids, targets)
            backward(loss)
            return loss.detach()
        whole = self.exchange.sum((targets != IGNORED).sum())
        total = torch.zeros((), device=ids.device)
        for number, (part, wanted) in enumerate(pieces, start=1):
            counted = (wanted != IGNORED).sum()
            if number < len(pieces):
                with self.exchange.accumulating():
                    total = total + self.piece(part, wanted, counted, whole)
            else:
                total = total + self.piece(part, wanted, counted, whole)
        return self.exchange.sum(total)

    def piece(self, ids: Tensor, targets: Tensor, counted: Tensor, whole: Tensor) -> Tensor:
        """Add one piece's share of the gradient; returns its share of the loss."""
        # The mean over no targets is NaN, even times zero: such a piece gets a target, and weight zero.
        targets = torch.where(counted == 0, targets.clamp(min=0), targets)
        loss = self.exchange.loss(ids, targets)
        share = loss * (counted.to(loss.dtype) / whole)
        backward(share * self.exchange.world)  # undoes the mean over processes
        return share.detach()


def backward(loss: Tensor) -> None:
    """Tensor.backward, which has no annotation."""
    run: Any = loss.backward
    run()
