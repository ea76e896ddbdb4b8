"""How well a model predicts a text: the mean loss over tokens, and the same number in other units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from reference.functional import IGNORED
from reference.training.processes import ALONE, Processes

Batch = tuple[Tensor, Tensor]  # ids and targets, both (B, T) int64; a target of -1 does not count


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch], processes: Processes = ALONE) -> tuple[float, int]:
    """Mean loss in nats over all targets that are not ignored, and their number.

    Args:
        model: `model.loss(ids, targets)` gives the mean over one batch; evaluated without dropout and left in the
            mode (train or eval) in which it was
        batches: on any device; each is sent to the model's
        processes: share the evaluation; each has its own batches (see `shared`), and all get the same result

    Each batch is weighted by its number of targets: a plain mean of batch means would overweight a short last batch.
    No targets at all is a ValueError.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with evaluating(model):
        for ids, targets in batches:
            counted = int((targets != IGNORED).sum())
            if counted == 0:
                continue  # the mean over no targets is NaN
            loss: Any = model.loss(ids.to(device), targets.to(device))  # type: ignore[operator]
            total += float(loss) * counted  # added up in double precision
            count += counted
    total, every = processes.sums(total, count)
    if every == 0:
        raise ValueError("nothing to evaluate: the batches have no targets that count")
    return total / every, int(every)


def shared(batches: Iterable[Batch], processes: Processes) -> Iterator[Batch]:
    """This process's share of the batches: every world-th one.

    Every process gets equally many: where batches run out, a process gets one whose targets are all ignored.
    """
    remaining = iter(batches)
    while turn := list(islice(remaining, processes.world)):
        ids, targets = turn[min(processes.rank, len(turn) - 1)]
        yield ids, targets if processes.rank < len(turn) else torch.full_like(targets, IGNORED)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards in its mode before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Score:
    """A mean loss over a text, in all its units."""

    loss: float  # nats per token
    tokens: int  # predicted ones
    characters: int  # of the predicted text
    bytes: int  # of the predicted text in UTF-8

    @property
    def perplexity(self) -> float:
        """exp(loss): the size of an equally hard uniform choice."""
        return math.exp(min(self.loss, 700.0))  # exp(710) overflows

    @property
    def bits_per_character(self) -> float:
        """Comparable between tokenizers, which the loss per token is not."""
        return self.loss * self.tokens / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        """As above, and comparable between languages too."""
        return self.loss * self.tokens / math.log(2) / self.bytes


def windows_at_once(block_size: int, vocab_size: int) -> int:
    """Windows per evaluation batch: 1 to 64, for about 4 million logits (16 MB)."""
    return max(1, min(64, 2**22 // (block_size * vocab_size)))
