"""Call a user's data loader on a text whose token at position i is i, so that each batch says where it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bench.user_code.refused import Refused, called

OPTIONS = {"seed": 0, "rank": 0, "world_size": 1, "start": 0}  # passed by name, if the function has them
WHO = "batches"  # in messages


@dataclass(frozen=True)
class Batch:
    """Positions in the text, (B, T) each."""

    inputs: Tensor
    targets: Tensor


class Loader:
    """A user's function `build_batches`.

    Args:
        build: (tokens, batch_size, block_size) and, by name, those of OPTIONS that it has -> an iterator of (inputs,
            targets), an iterable, or a function without arguments that returns the next batch
        batch, block: sizes
    """

    def __init__(self, build: Callable[..., Any], batch: int, block: int) -> None:
        self.build, self.batch, self.block = build, batch, block
        try:
            parameters = inspect.signature(build).parameters.values()
        except (TypeError, ValueError):
            parameters = ()  # type: ignore[assignment]
        any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.takes = {name for name in OPTIONS if any_name or name in {p.name for p in parameters}}

    def take(self, tokens: int, most: int, **options: int) -> list[Batch]:
        """The first batches of a text, at most so many; fewer if the loader ends.

        Args:
            tokens: length of the text
            most: number of batches
            options: others than the usual values of OPTIONS, only those that the function takes

        Raises Refused, one line, if it raises or returns something else.
        """
        assert options.keys() <= self.takes
        options = {name: usual for name, usual in OPTIONS.items() if name in self.takes} | options
        text = torch.arange(tokens)
        torch.manual_seed(options.get("seed", 0))  # for a loader that draws from torch's own generator
        made = called(lambda: self.build(text, self.batch, self.block, **options), "build_batches", WHO)
        numbered = islice(stream(made), most)
        found: list[Batch] = []
        while True:
            given = called(lambda: next(numbered, None), f"batch {len(found)} of a text of {tokens} tokens", WHO)
            if given is None:
                return found
            found.append(self.checked(given, tokens, len(found)))

    def checked(self, given: Any, tokens: int, number: int) -> Batch:
        """A batch of positions; Refused if it is not of this form."""
        if not (isinstance(given, (tuple, list)) and len(given) == 2):
            raise Refused(f"{WHO}: batch {number} is a {type(given).__name__}: give inputs and targets, (B, T) each")
        inputs, targets = (torch.as_tensor(part) for part in given)
        for name, part in (("inputs", inputs), ("targets", targets)):
            if part.dim() != 2 or part.is_floating_point():
                form = f"shape {tuple(part.shape)}, {str(part.dtype).removeprefix('torch.')}"
                raise Refused(f"{WHO}: batch {number}: {name} have {form}: give integers of shape (B, T)")
        if inputs.shape != targets.shape:
            shapes = f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
            raise Refused(f"{WHO}: batch {number}: inputs and targets have shapes {shapes}: give the same")
        if bool(((inputs < 0) | (inputs >= tokens)).any()):
            raise Refused(f"{WHO}: batch {number}: inputs are no tokens of the text: use the tokens that are given")
        return Batch(inputs.long().cpu(), targets.long().cpu())


def stream(made: Any) -> Iterator[Any]:
    """The batches of an iterator, an iterable, or a function that returns the next one."""
    if hasattr(made, "__next__") or hasattr(made, "__iter__"):
        yield from made
    elif callable(made):
        while True:
            yield made()
    else:
        raise Refused(
            f"{WHO}: build_batches returned {type(made).__name__}: return an iterator, or a function that returns "
            "the next batch"
        )
