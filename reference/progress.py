"""What a training run shows while it goes: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from reference.training import Observer, Record

if TYPE_CHECKING:
    from rich.progress import TaskID


class Display(Observer, Protocol):
    """A context in which a training run reports."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(done: int, steps: int) -> Display:
    """A bar if standard output is a terminal that can draw one, else lines."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(done, steps)
    return Lines(done, steps)


class Bar:
    """A bar with loss, validation loss, speed and time left; validations stay on the screen above it."""

    def __init__(self, done: int, steps: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.completed:,}/{task.total:,}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[measured]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            # the time left is judged by this much of the past: validations are part of it
            speed_estimate_period=60.0,
        )
        self.done, self.steps = done, steps
        self.loss, self.validation, self.speed = "-", "-", "-"
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        self.task = self.progress.add_task("", total=self.steps, completed=self.done, measured="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def stepped(self, done: int) -> None:
        assert self.task is not None
        self.progress.update(self.task, completed=done)

    def recorded(self, record: Record) -> None:
        assert self.task is not None
        if "validation_loss" in record:
            self.validation = f"{record['validation_loss']:.4f}"
            self.progress.console.print(validation_line(record, self.steps), markup=False, highlight=False)
        else:
            self.loss, self.speed = f"{record['loss']:.4f}", f"{record['tokens_per_second']:,.0f}"
        measured = f"loss {self.loss}  validation {self.validation}  {self.speed} tokens/s"
        self.progress.update(self.task, measured=measured)


class Lines:
    """A line for each record, without control codes: for files, pipes and logs."""

    def __init__(self, done: int, steps: int) -> None:
        self.before, self.done, self.steps = done, done, steps
        self.start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stepped(self, done: int) -> None:
        self.done = done

    def recorded(self, record: Record) -> None:
        if "validation_loss" in record:
            print(validation_line(record, self.steps), flush=True)
            return
        taken = self.done - self.before
        left = (time.monotonic() - self.start) / taken * (self.steps - self.done)
        print(
            f"step {record['step']:,}/{self.steps:,}  loss {record['loss']:.4f}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  {clock(left)} left",
            flush=True,
        )


def validation_line(record: Record, steps: int) -> str:
    """A validation in one line."""
    return f"step {record['step']:,}/{steps:,}  validation loss {record['validation_loss']:.4f}"


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss.

    >>> clock(75.4), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
