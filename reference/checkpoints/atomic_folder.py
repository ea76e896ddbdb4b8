"""Write folders atomically: a kill or a power failure leaves the whole folder on disk, or none of it.

A folder is written under a name that readers ignore, synced to disk with its files, and renamed atomically to NAME.
POSIX cannot rename a folder over one that is not empty, so replacing takes two renames: NAME to `NAME.replaced`, then
the new folder to NAME. One of the two names always exists, and a reader without NAME takes `NAME.replaced`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

UNFINISHED = ".unfinished@"  # then the writer's pid, its host and a random part, separated by @
REPLACED = ".replaced"
DAY = 24 * 3600.0

logger = logging.getLogger(__name__)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; after the block it is on disk as `final`.

    An existing `final` stays until the new folder is complete on disk. If the block raises, its files are removed and
    `final` is unchanged. Creates the parent if necessary; for an existing parent, call `settle` first.
    """
    make_folder(final.parent)
    unfinished, replaced = hidden_name(final), final.with_name(final.name + REPLACED)
    os.mkdir(unfinished)
    try:
        yield unfinished
        for file in sorted(unfinished.iterdir()):
            sync(file)
        sync(unfinished)
        if final.exists():
            os.rename(final, replaced)
        os.rename(unfinished, final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if replaced.exists() and not final.exists():
            os.rename(replaced, final)
        raise
    sync(final.parent)
    if replaced.exists():
        remove_folder(replaced)


def settle(parent: Path, is_whole: Callable[[Path], bool]) -> None:
    """Finish or undo replacements that a dead writer left half done: one folder remains, under its own name."""
    for replaced in sorted(parent.glob(f"*{REPLACED}")):
        final = replaced.with_name(replaced.name.removesuffix(REPLACED))
        if is_whole(final):
            remove_folder(replaced)
        else:
            if final.exists():
                remove_folder(final)
            os.rename(replaced, final)
            sync(parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, after renaming it, so that no reader finds half of it.

    If removing fails, logs that, and leaves the folder under a name that readers ignore.
    """
    doomed = hidden_name(folder)
    try:
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("%s could not be removed (%s)", folder, error.strerror)


def remove_abandoned(parent: Path) -> None:
    """Remove unfinished folders of dead writers; keep those of living ones."""
    for folder in sorted(parent.glob(f"{UNFINISHED}*")):
        if is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether the writer of this unfinished folder is dead.

    A writer on another machine counts as dead if the folder is unchanged for a day.
    """
    try:
        _, pid, host, _ = folder.name.split("@")
        touched = folder.stat().st_mtime
        if host != host_name():
            return time.time() - touched > DAY
        process = psutil.Process(int(pid))
        # after a reboot another process may have this pid: it started later than the folder was written
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > touched + 2.0
    except (psutil.NoSuchProcess, ValueError):
        return True
    except (psutil.AccessDenied, FileNotFoundError):
        return False  # alive but not ours, or already gone


def hidden_name(folder: Path) -> Path:
    """A new name beside `folder` that readers ignore, with the pid and host of its writer."""
    return folder.with_name(f"{UNFINISHED}{os.getpid()}@{host_name()}@{uuid.uuid4().hex[:8]}")


def host_name() -> str:
    """This machine's name as `hidden_name` writes it."""
    return socket.gethostname().replace("@", "")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each synced to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)  # another process may have been faster
        sync(folder.parent)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot sync a folder, and answer that the call is invalid
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
