"""The processes that share a training run: one, unless a launcher such as torchrun started several."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

from reference.training.devices import choose_device

T = TypeVar("T")


class Processes(Protocol):
    """Communication between the processes of a run. All of them make the same calls in the same order."""

    rank: int  # of this process, from 0; the first one alone writes
    world: int  # number of processes

    def device(self, name: str, dtype: str) -> torch.device:
        """This process's device, by the name that the user gives; raises what `choose_device` raises."""

    def agreed(self) -> AbstractContextManager[object]:
        """Inside, an error in one process ends all of them, with its message and exit status."""

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise a ValueError in every process, naming the first value that is not the same in all of them."""

    def of_first(self, value: T) -> T:
        """The first process's value."""

    def largest(self, number: int) -> int:
        """The maximum over all processes."""

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the processes, in double precision."""


class OneProcess:
    """A run of a single process."""

    rank, world = 0, 1

    def device(self, name: str, dtype: str) -> torch.device:
        """As `choose_device`."""
        return choose_device(name, dtype)

    def agreed(self) -> AbstractContextManager[object]:
        """Nothing: there is no other process."""
        return nullcontext()

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Nothing: there is no other process."""

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
