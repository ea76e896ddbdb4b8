"""A simulated disk that stops at a chosen operation, as after a kill or a power failure."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reference.checkpoints import checkpoint

DEAD = 999_999_999  # above every pid that a kernel gives


class Stopped(BaseException):
    """The writer is no more. Not an Exception: no handler may do any good after it."""


class Disk:
    """Counts what a save does to the disk, and lets nothing happen from one operation on.

    Args:
        at: the operation, counted from 0, that is the last; none for a disk that only counts
        half: whether that last one is done halfway (half a file written, half a folder removed) or not at all

    `operations` says what was done. `cut_power` makes of the folder what a disk may hold when not the process
    but the machine stopped.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None = None, half: bool = False) -> None:
        self.at, self.half = at, half
        self.operations: list[str] = []
        self.unsynced: set[Path] = set()  # files whose content no fsync has forced out
        self.renames: list[tuple[Path, Path]] = []  # not yet forced out by an fsync of their folder
        patch.setattr(os, "getpid", lambda: DEAD)
        patch.setattr(os, "mkdir", self.counted("mkdir", os.mkdir))
        patch.setattr(os, "rename", self.counted("rename", os.rename, after=self.renamed))
        patch.setattr(os, "fsync", self.counted("fsync", self.synced))
        patch.setattr(shutil, "rmtree", self.counted("rmtree", shutil.rmtree, self.remove_half))
        patch.setattr(shutil, "copymode", self.counted("copymode", shutil.copymode))
        patch.setattr(
            pathlib.Path,
            "write_bytes",
            self.counted("write", pathlib.Path.write_bytes, self.write_half, self.written),
        )
        patch.setattr(
            checkpoint,
            "save_file",
            self.counted("write", checkpoint.save_file, self.save_half, self.saved),
        )

    def counted(
        self,
        name: str,
        real: Callable[..., Any],
        halfway: Callable[..., None] | None = None,
        after: Callable[..., None] | None = None,
    ) -> Callable[..., Any]:
        """The operation with a count before it, its half for the last one, and nothing after that."""

        def operation(*args: Any, **kwargs: Any) -> Any:
            number = len(self.operations)
            self.operations.append(name)
            if self.at is not None and number >= self.at:
                if number == self.at and self.half and halfway is not None:
                    halfway(*args)
                raise Stopped
            result = real(*args, **kwargs)
            if after is not None:
                after(*args)
            return result

        return operation

    def written(self, path: Path, *_: Any) -> None:
        self.unsynced.add(path)

    def write_half(self, path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])

    def saved(self, tensors: Any, path: Path) -> None:
        self.unsynced.add(path)

    def save_half(self, tensors: Any, path: Path) -> None:
        self.write_half(path, b"\x10\0\0\0\0\0\0\0{}      " * 8)

    def synced(self, descriptor: int) -> None:
        """Takes note only: a real fsync takes milliseconds and shows nothing here."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.unsynced.discard(path)
        self.renames = [pair for pair in self.renames if pair[0].parent != path]

    def renamed(self, old: Path, new: Path) -> None:
        self.renames.append((old, new))
        self.unsynced = {new / path.name if path.parent == old else path for path in self.unsynced}

    def remove_half(self, folder: Path, **_: Any) -> None:
        for path in sorted(folder.iterdir())[::2]:
            path.unlink()

    def cut_power(self) -> None:
        """Truncate files and undo renames that were not synced."""
        for path in self.unsynced:
            if path.exists():
                os.truncate(path, 0)
        for old, new in reversed(self.renames):
            if new.exists():
                os.rename(new, old)
