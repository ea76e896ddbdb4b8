"""Two ranks as two threads: training step and evaluation are real, the exchange is in memory.

`InMemory` does what DistributedDataParallel does: it averages gradients in the backward pass, as decided in the forward
pass. test_bugs_ranks.py runs the same checks with real processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
LIMIT = 20.0  # seconds that one waits for the other


class Meeting:
    """Where the ranks lay down what they have, and take away what all have."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=LIMIT)
        self.laid: list[Any] = [None] * world

    def share(self, rank: int, value: T) -> list[T]:
        """Every rank's value, in order."""
        self.laid[rank] = value
        self.barrier.wait()
        values = list(self.laid)
        self.barrier.wait()
        return values


class InMemory:
    """The `optimized.step.Exchange` of one rank."""

    def __init__(self, model: nn.Module, rank: int, meeting: Meeting) -> None:
        self.model, self.rank, self.meeting, self.world = model, rank, meeting, meeting.world
        self.held_back = self.settled = False
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self.exchange)  # type: ignore[no-untyped-call]

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss; here it is settled whether its backward pass exchanges gradients."""
        self.settled = self.held_back
        value: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]
        return value

    def exchange(self, parameter: Tensor) -> None:
        """Replace what has accumulated by the mean of all ranks'."""
        if not self.settled:
            assert parameter.grad is not None
            parameter.grad = self.sum(parameter.grad) / self.world

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, taken in the same order by each."""
        return torch.stack(self.meeting.share(self.rank, tensor.clone())).sum(0)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Inside, forward passes settle that nothing is exchanged."""
        before, self.held_back = self.held_back, True
        try:
            yield
        finally:
            self.held_back = before


class Several:
    """What an evaluation asks of `reference.training.processes.Processes`."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.world, self.meeting = rank, meeting.world, meeting

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the ranks."""
        return [sum(column) for column in zip(*self.meeting.share(self.rank, numbers), strict=True)]


def together(work: Callable[[int, Meeting], T], world: int = 2) -> list[T]:
    """Run the ranks side by side; what each returned. If one fails, all do."""
    meeting = Meeting(world)
    found: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            found[rank] = work(rank, meeting)
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found
