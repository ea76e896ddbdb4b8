"""Make standard streams exist and accept every character."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any


def prepare_streams() -> None:
    """Replace closed standard streams by the null device, and unencodable characters in outputs by "?".

    Python sets a closed stream to None, and the next opened file gets its descriptor: a library or compiler would print
    into a checkpoint. In an encoding such as cp1252 or ASCII, an unencodable character would end the command. Progress
    and notes that cannot be written (a full disk, a reader that is gone) are dropped: only a result is worth an error.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            occupy(descriptor)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's stream may have none
        if reconfigure is not None and stream.encoding.lower() != "utf-8":
            reconfigure(errors="replace")
    drop_unwritable()


def drop_unwritable() -> None:
    """Let standard error drop what it cannot write, unless a test or a user has replaced it."""
    stream = sys.stderr
    if stream is sys.__stderr__ and isinstance(stream, io.TextIOWrapper):
        raw = Dropping(stream.fileno(), "w", closefd=False)
        replacement = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)
        sys.stderr = replacement
        sys.__stderr__ = replacement  # type: ignore[misc]  # final for readers: what asks for the true one gets this


class Dropping(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data: Any) -> int:
        """Write some bytes; returns how many are written or dropped."""
        with suppress(OSError):
            return super().write(data)
        return len(data)


def occupy(descriptor: int) -> None:
    """Open the null device at this descriptor, unless it is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
