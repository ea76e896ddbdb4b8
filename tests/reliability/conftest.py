"""No fsync in these tests, which save hundreds of times."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_MEMORY = Path("/dev/shm")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsync takes milliseconds, on a busy disk seconds, and shows nothing to who reads the file back.

    That each is done, and in the right order, is what test_crash_points.py shows.
    """
    monkeypatch.setattr(os, "fsync", os.fstat)  # still complains about what is not open


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that is in memory where the system has such a thing: for other processes, whose fsync is real."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)
