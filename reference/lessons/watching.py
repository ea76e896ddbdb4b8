"""What a lesson shows while it computes: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from reference.progress import clock

Item = TypeVar("Item")

EVERY = 10.0  # seconds between lines


def watched(items: Iterable[Item], total: int, what: str = "Learning") -> Iterator[Item]:
    """The same items, `total` of them; meanwhile standard error shows how far it is and how long it will take."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, total=total, description=what, console=Console(stderr=True))
        return
    start = told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= EVERY and done < total:
            told = now
            left = clock((now - start) / done * (total - done))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)
