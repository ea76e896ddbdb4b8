"""Known mistakes as changes of a variant: a frozen dataclass whose defaults compute what the reference computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from typing import Any, TypeVar

V = TypeVar("V")  # the variant


@dataclass(frozen=True)
class Mistake:
    """A known mistake: the fields of the variant that it changes."""

    what: str
    remedy: str
    changes: tuple[tuple[str, Any], ...]

    @property
    def fields(self) -> set[str]:
        """The names of the fields."""
        return {name for name, _ in self.changes}


def mistake(what: str, remedy: str, **changes: Any) -> Mistake:
    """A mistake from keyword arguments."""
    return Mistake(what, remedy, tuple(changes.items()))


def choices(field: str, remedy: str, *wrong: StrEnum) -> Iterator[Mistake]:
    """Wrong choices of one field, with the same remedy; a choice's value says what is wrong."""
    return (mistake(str(choice), remedy, **{field: choice}) for choice in wrong)


def others(kind: type[StrEnum], *apart: StrEnum) -> list[StrEnum]:
    """All choices of a kind but the first, which is right, and those given."""
    return [choice for choice in list(kind)[1:] if choice not in apart]


def combined(right: V, mistakes: Iterable[Mistake]) -> V:
    """A variant with some mistakes, of different fields."""
    return replace(right, **dict(change for one in mistakes for change in one.changes))  # type: ignore[type-var]


def singles_and_pairs(mistakes: tuple[Mistake, ...]) -> Iterator[tuple[Mistake, ...]]:
    """Each mistake alone, then two at once where they change different fields."""
    yield from ((one,) for one in mistakes)
    yield from (pair for pair in combinations(mistakes, 2) if not pair[0].fields & pair[1].fields)
