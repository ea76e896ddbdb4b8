"""Standard streams that exist and take every character, whatever the process was started with."""

from __future__ import annotations

import os
import sys


def prepare_streams() -> None:
    """Put the null device in the place of a standard stream that is closed, and let outputs replace what they lack.

    A closed one would be None in Python, and its descriptor would be given to the next file that is opened: what a
    library or a compiler prints would go into a checkpoint. An output whose encoding lacks a character (cp1252, ASCII)
    prints "?" for it instead of ending the command.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            occupy(descriptor)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what a test puts there may have none
        if reconfigure is not None and stream.encoding.lower() != "utf-8":
            reconfigure(errors="replace")


def occupy(descriptor: int) -> None:
    """Open the null device as this descriptor, unless it is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
