"""Ctrl-C ends a command at once, in the middle of a long operation too.

Python calls the handler of a signal between two steps of its own. One operation of torch can take minutes: the backward
pass of a large model, or a product in a precision that the processor emulates. So the system also writes each signal's
number into a socket (signal.set_wakeup_fd), and a thread reads it: if the command has not ended `GRACE` seconds after a
signal, the thread ends the process. torch lets other threads run while it computes.

A polite kill (SIGTERM) is treated in the same way. Nothing here imports torch: see `end_at_once`.
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

GRACE = 1.0  # seconds; KeyboardInterrupt comes within milliseconds where no operation takes long
ENDING, TAKEN = 0, 255  # in place of a signal's number: the command is over, or ends by itself

_watch: Watch | None = None  # of the command that runs


class Terminated(KeyboardInterrupt):
    """A polite kill: it ends a command as Ctrl-C does, with another exit status."""


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status after a signal, as shells count it."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def farewell(words: str) -> str:
    """What a stopped command says, after the ^C that the terminal shows."""
    return f"\nstopped; {words}" if words else "\nstopped"


@contextmanager
def heeded(standard_error: int = 2) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise KeyboardInterrupt; where that cannot come up soon, they end the process.

    Outside the main thread, which alone gets signals, nothing is done; a signal that is ignored stays ignored.

    Args:
        standard_error: file descriptor for the last line, where 2 leads elsewhere for a time
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
    """Inside, a command that is stopped says this, too; it is asked when that happens."""
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
    """Inside, the first signal is for the command's own handler, however late that runs; the second ends the process.

    Args:
        tell: called from another thread as soon as the first signal comes

    Yields whether it will be: without `heeded` nothing is done.
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
    """Say that the command has come to a signal, and ends by itself however long that takes; the next one counts."""
    if _watch is not None:
        _watch.numbers.send(bytes([TAKEN]))


class Watch(threading.Thread):
    """Ends the process `GRACE` seconds after a signal, unless it is stopped before."""

    def __init__(self, standard_error: int) -> None:
        super().__init__(name="interrupts", daemon=True)
        self.standard_error = standard_error
        self.ours, self.numbers = socket.socketpair()
        self.numbers.setblocking(False)
        self.words: Callable[[], str] = str  # "" if nothing else
        self.first: Callable[[], object] | None = None
        self.start()

    def run(self) -> None:
        number, end = 0, None  # of the signal that counts, and when its grace is over
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
        """End the thread; it has then told all that there was to tell."""
        self.numbers.send(bytes([ENDING]))
        self.join()
        self.ours.close()
        self.numbers.close()

    def end(self, number: int) -> NoReturn:
        """End the process: whatever the main thread is doing, it will not come back from it soon."""
        _say(farewell(self.words()), self.standard_error)
        os._exit(128 + number)


def end_at_once() -> None:
    """From now on, and until `heeded`, Ctrl-C ends the process in one line: for the time in which modules are imported.

    For programs, not for importing: it changes what a signal does to the process.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)


def raise_again() -> None:
    """Take `end_at_once` back: KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(status: int) -> NoReturn:
    """End the program. After a signal at once: libraries may wait, when Python exits, for processes of theirs."""
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _forget() -> None:
    """In a process that was forked: its signals are not the parent's."""
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
    """Write to standard error past Python's own stream, which the main thread may hold; the cursor is shown again."""
    with suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(standard_error) else ""
        os.write(standard_error, f"{cursor}{line}\n".encode())
