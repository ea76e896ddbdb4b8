"""What is shown while a comparison runs: on a terminal one line that moves, elsewhere a line for each stage."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self


class Progress:
    """Tells, on standard error, which stage is under way and for how long.

    Args:
        stages: how many there will be
    """

    def __init__(self, stages: int) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self.stages, self.done, self.start = stages, 0, time.monotonic()
        self.bar: Bar | None = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def stage(self, what: str) -> None:
        """The next stage begins."""
        self.done += 1
        line = f"{self.done}/{self.stages} {what}"
        if self.bar is not None:
            self.bar.update(self.task, description=line)
        else:
            print(f"{line} ({time.monotonic() - self.start:.0f} s)", file=sys.stderr, flush=True)

    def within(self, what: str) -> None:
        """The stage goes on: shown only where a line can be overwritten."""
        if self.bar is not None:
            self.bar.update(self.task, description=f"{self.done}/{self.stages} {what}")
