"""Ctrl-C and SIGTERM end a command within a second, even inside a long torch operation.

Python runs signal handlers between bytecodes, but one torch operation can take minutes: the backward pass of a large
model, or a product in an emulated precision. So each signal's number also goes to a socket (signal.set_wakeup_fd). A
thread reads it, and ends the process if the command has not ended `GRACE` seconds after the signal. torch releases the
GIL while it computes. Nothing here imports torch: see `end_at_once`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE = 1.0  # seconds; without a long operation, KeyboardInterrupt arrives within milliseconds
ENDING, TAKEN = 0, 255  # sent instead of a signal's number: the command is over, or is ending by itself

_watch: Watch | None = None  # of the current command


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command like Ctrl-C, with another exit status."""


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status after a signal: 128 + its number, as in shells."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def farewell(words: str) -> str:
    """The last line of a stopped command, after the terminal's ^C."""
    return f"\nstopped; {words}" if words else "\nstopped"


@contextmanager
def heeded(standard_error: int = 2) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise KeyboardInterrupt, or end the process after `GRACE` seconds.

    Does nothing outside the main thread, the only one that gets signals. An ignored signal stays ignored.

    Args:
        standard_error: file descriptor for the last line, if 2 is redirected
    """
    global _watch
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {}
    if signal.getsignal(signal.SIGINT) is _at_once:
        handlers[signal.SIGINT] = signal.default_int_handler
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        handlers[signal.SIGTERM] = _terminated
    outer, _watch = _watch, Watch(standard_error)
    wakeup = signal.set_wakeup_fd(_watch.numbers.fileno(), warn_on_full_buffer=False)
    before = {kind: signal.signal(kind, handler) for kind, handler in handlers.items()}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.set_wakeup_fd(wakeup)
        _watch.stop()
        _watch = outer


@contextmanager
def last_words(words: Callable[[], str]) -> Iterator[None]:
    """Inside, a stopped command also prints `words()`, called when it is stopped."""
    watch = _watch
    if watch is not None:
        watch.words = words
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(words()) from None
    finally:
        if watch is not None:
            watch.words = str


@contextmanager
def expected(tell: Callable[[], object]) -> Iterator[bool]:
    """Inside, leave the first signal to the command's own handler, without a time limit; the second ends the process.

    Args:
        tell: called from another thread as soon as the first signal arrives

    Yields whether `tell` will be called: not outside `heeded`.
    """
    watch = _watch
    if watch is None:
        yield False
        return
    watch.first = tell
    try:
        yield True
    finally:
        watch.first = None


def taken() -> None:
    """Report that the command is handling a signal and will end by itself; the next signal ends the process."""
    if _watch is not None:
        _watch.numbers.send(bytes([TAKEN]))


class Watch(threading.Thread):
    """Ends the process `GRACE` seconds after a signal, unless stopped before."""

    def __init__(self, standard_error: int) -> None:
        super().__init__(name="interrupts", daemon=True)
        self.standard_error = standard_error
        self.ours, self.numbers = socket.socketpair()
        self.numbers.setblocking(False)
        self.words: Callable[[], str] = str  # "" if nothing else
        self.first: Callable[[], object] | None = None
        self.start()

    def run(self) -> None:
        number, end = 0, None  # the signal, and the time at which to end the process
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self.ours], [], [], left)
            if not ready:
                self.end(number)
            for number_read in self.ours.recv(64):
                if number_read == ENDING:
                    return
                if number_read == TAKEN:
                    end = None
                if number_read not in (signal.SIGINT, signal.SIGTERM):
                    continue
                first, self.first = self.first, None
                if first is not None:
                    first()
                elif end is None:
                    number, end = number_read, time.monotonic() + GRACE

    def stop(self) -> None:
        """End the thread, after it has handled all signals so far."""
        self.numbers.send(bytes([ENDING]))
        self.join()
        self.ours.close()
        self.numbers.close()

    def end(self, number: int) -> NoReturn:
        """End the process without the main thread, which is inside a long operation."""
        _say(farewell(self.words()), self.standard_error)
        os._exit(128 + number)


def end_at_once() -> None:
    """Until `heeded`, make Ctrl-C end the process with one line: for the time of slow imports.

    Only for programs: it changes the process's signal handler.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)


def raise_again() -> None:
    """Undo `end_at_once`: Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(status: int) -> NoReturn:
    """End the program; after a signal without Python's exit handlers, which may wait for child processes."""
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _forget() -> None:
    """After a fork, in the child: stop writing its signals into the parent's socket."""
    if _watch is not None:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forget)


def _at_once(number: int, frame: FrameType | None) -> None:
    _say(farewell(""))
    os._exit(128 + number)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _say(line: str, standard_error: int = 2) -> None:
    """Write to standard error without Python's stream, whose lock the main thread may hold; show the cursor again."""
    with suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(standard_error) else ""
        os.write(standard_error, f"{cursor}{line}\n".encode())
