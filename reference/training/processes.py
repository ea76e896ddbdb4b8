"""The processes that share a training run: one, unless a launcher such as torchrun started several."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

from reference.training.devices import choose_device

T = TypeVar("T")


class Processes(Protocol):
    """What a run asks of the processes that share it. Every one of them makes the same calls in the same order."""

    rank: int  # of this process, from 0; the first one alone writes
    world: int  # how many there are

    def device(self, name: str, dtype: str) -> torch.device:
        """The device of this process, by the name that the user gives; a ValueError as of `choose_device`."""

    def agreed(self) -> AbstractContextManager[object]:
        """Inside, what goes wrong in one process ends all of them, with that one's message and status."""

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise a ValueError in every process, naming the first value that is not the same in all of them."""

    def of_first(self, value: T) -> T:
        """The value that the first process has."""

    def largest(self, number: int) -> int:
        """The largest number that a process has."""

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the processes, in double precision."""


class OneProcess:
    """A run that is nobody else's."""

    rank, world = 0, 1

    def device(self, name: str, dtype: str) -> torch.device:
        """As `choose_device`."""
        return choose_device(name, dtype)

    def agreed(self) -> AbstractContextManager[object]:
        """Nobody to agree with."""
        return nullcontext()

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Nobody to compare with."""

    def of_first(self, value: T) -> T:
        """The value itself."""
        return value

    def largest(self, number: int) -> int:
        """The number itself."""
        return number

    def sums(self, *numbers: float) -> list[float]:
        """The numbers themselves."""
        return list(numbers)


ALONE = OneProcess()
