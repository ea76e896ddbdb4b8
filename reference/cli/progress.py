"""Progress of long commands, with the time left.

On a terminal one live line, elsewhere plain lines at intervals, without control codes. Progress goes to standard error,
except that of a training run, which is its result. Never imports torch, and rich only to draw.

    with waiting("loading PyTorch"): ...        # one thing that may take long
    for batch in watched(batches, 20, "eval"): ...     # many of a kind
    with Stages(3) as stages: stages.stage("proving") ...    # several, one after the other
    with display(done, steps) as shown: ...     # a training run
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from reference.training.loop import Record

Item = TypeVar("Item")

SOON = 1.0  # seconds until the first line
EVERY = 10.0  # seconds between lines


def draws(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss.

    >>> clock(75.4), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def line_that_moves() -> Progress:
    """A live line on standard error with task and elapsed time; notes go above it, and it is erased at the end."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Inside, show `what` and the elapsed time: on a terminal at once, elsewhere after `SOON` seconds."""
    if draws(sys.stderr):
        with line_that_moves() as line:
            line.add_task(what)
            line.refresh()
            yield
        return
    stream, start, over = sys.stderr, time.monotonic(), threading.Event()

    def tell() -> None:
        pause = SOON
        while not over.wait(pause):
            print(f"{what} ({time.monotonic() - start:.0f} s)", file=stream, flush=True)
            pause = EVERY

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def watched(items: Iterable[Item], total: int, what: str = "Learning") -> Iterator[Item]:
    """Yield the `total` items, showing progress and time left on standard error."""
    if draws(sys.stderr):
        from rich.console import Console
        from rich.progress import track

        yield from track(items, total=total, description=what, console=Console(stderr=True))
        return
    start = told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= (SOON if told == start else EVERY) and done < total:
            told = now
            left = clock((now - start) / done * (total - done))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)


class Stages:
    """Shows the current stage, the elapsed time and, if known, the time left, on standard error.

    Args:
        stages: number of stages
        even: whether all take about equally long, so that the first one tells the time left
    """

    def __init__(self, stages: int, even: bool = False) -> None:
        self.stages, self.even, self.done = stages, even, 0
        self.start = self.told = time.monotonic()
        self.bar: Progress | None = None
        self.task: TaskID
        if draws(sys.stderr):
            self.bar = line_that_moves()
            self.task = self.bar.add_task("")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def stage(self, what: str, left: float | None = None) -> None:
        """Start the next stage.

        Args:
            left: seconds until all stages are done; None if unknown
        """
        if self.even and self.done:
            left = (time.monotonic() - self.start) / self.done * (self.stages - self.done)
        self.done += 1
        self.show(what, left)

    def within(self, what: str, left: float | None = None) -> None:
        """Update the stage; without a terminal, print a line only every `EVERY` seconds, and only with a time left."""
        if self.bar is not None or (left is not None and time.monotonic() - self.told >= EVERY):
            self.show(what, left)

    def show(self, what: str, left: float | None) -> None:
        """Draw the line, or print it."""
        self.told = time.monotonic()
        line, rest = f"{self.done}/{self.stages} {what}", "" if left is None else f", {clock(left)} left"
        if self.bar is not None:
            room = self.bar.console.width - len("| ") - len(rest) - len(" 0:00:00")
            self.bar.update(self.task, description=fitted(line, room) + rest)
        else:
            print(f"{line} ({self.told - self.start:.0f} s{rest})", file=sys.stderr, flush=True)


def fitted(line: str, room: int) -> str:
    """Shorten a line to `room` columns by cutting out its middle; its end has the number that changes.

    >>> fitted("timing text of reference, huggingface, optimized, round 3", 40)
    'timing text of re..., optimized, round 3'
    """
    if len(line) <= room:
        return line
    end = min(len(", optimized, round 3"), room // 2)
    return f"{line[: max(0, room - end - 3)]}...{line[-end:]}"


class Display(Protocol):
    """The display of a training run: a context, and an `Observer` of reference/training/loop.py."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def stepped(self, done: int) -> None: ...
    def recorded(self, record: Record) -> None: ...


def display(done: int, steps: int) -> Display:
    """A progress bar on a terminal, else lines."""
    if draws(sys.stdout):
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
            # long enough to include validations in the estimate of the time left
            speed_estimate_period=60.0,
        )
        self.done, self.steps = done, steps
        self.loss, self.validation, self.speed = "-", "-", "-"
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        measured = "the first step, compiling included"
        self.task = self.progress.add_task("", total=self.steps, completed=self.done, measured=measured)
        return self

    def __exit__(self, *error: object) -> None:
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
        self.opening = ExitStack()  # shown during the first step, which compiles and may take a minute

    def __enter__(self) -> Self:
        self.opening.enter_context(waiting("validating"))
        return self

    def __exit__(self, *error: object) -> None:
        self.opening.close()

    def stepped(self, done: int) -> None:
        self.opening.close()
        self.done = done

    def recorded(self, record: Record) -> None:
        if "validation_loss" in record:
            first = self.done == self.before
            if first:
                self.opening.close()
            print(validation_line(record, self.steps), flush=True)
            if first and self.done < self.steps:
                self.opening.enter_context(waiting("the first step, compiling included"))
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
