"""Folders that are on disk whole or not at all, whatever moment the process is killed or the power goes.

A folder is written under a name that no reader looks at, every file and the folder itself are forced to the
disk, and only then does a rename give it its name: one step that happens or does not. POSIX renames no folder
over one that has something in it, so replacing takes two renames: the old one steps aside to `NAME.replaced`,
the new one takes its place. A reader that finds no NAME takes `NAME.replaced`; there is always one of them.
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

UNFINISHED = ".unfinished@"  # then the writer's pid, its host and something random, with @ between
REPLACED = ".replaced"
DAY = 24 * 3600.0

logger = logging.getLogger(__name__)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends, it is `final`, and that is on the disk.

    A folder that already has this name stays until the new one is complete on the disk. If the block raises,
    what it wrote is removed and `final` is as it was. The parent is created if need be; if it is there, call
    `settle` for it first.
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
    """Finish or undo the replacements that a writer died in: of two folders one stays, under its name."""
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
    """Remove a folder, which loses its name first: nobody ever finds half of it there.

    What the system will not remove is left under a name that readers ignore, and logged.
    """
    doomed = hidden_name(folder)
    try:
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("%s could not be removed (%s)", folder, error.strerror)


def remove_abandoned(parent: Path) -> None:
    """Remove what writers that are gone had begun or were removing; what a living one works on stays."""
    for folder in sorted(parent.glob(f"{UNFINISHED}*")):
        if is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether the process that named this unfinished folder is gone.

    From another machine that cannot be seen: there, untouched for a day counts as gone.
    """
    try:
        _, pid, host, _ = folder.name.split("@")
        touched = folder.stat().st_mtime
        if host != host_name():
            return time.time() - touched > DAY
        process = psutil.Process(int(pid))
        # after a reboot the number may be somebody else's: they came later than the folder
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > touched + 2.0
    except (psutil.NoSuchProcess, ValueError):
        return True
    except (psutil.AccessDenied, FileNotFoundError):
        return False  # alive but not ours, or already gone


def hidden_name(folder: Path) -> Path:
    """A new name beside `folder` that no reader looks at, and that says who uses it."""
    return folder.with_name(f"{UNFINISHED}{os.getpid()}@{host_name()}@{uuid.uuid4().hex[:8]}")


def host_name() -> str:
    """This machine's name as `hidden_name` writes it."""
    return socket.gethostname().replace("@", "")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each name forced to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)  # another process may have been faster
        sync(folder.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot do this for a folder, and say that it makes no sense
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
