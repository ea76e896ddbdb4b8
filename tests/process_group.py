"""Starts Python in a process group of its own: a test can signal it with all that it starts, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def start(*arguments: object, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """`python ARGUMENTS` with one thread, able to import this project, and no part of this pytest if it is one too.

    Args:
        variables: of the environment, besides those of this process
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_empty(group: int, limit: float = 60.0) -> list[int]:
    """Wait until no process of a group is left; returns those that are when the limit, in seconds, is over."""
    end = time.monotonic() + limit
    while left := [process.pid for process in psutil.process_iter() if is_in(process, group)]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return left


def is_in(process: psutil.Process, group: int) -> bool:
    """Whether a process runs, and is in a group."""
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):  # it has just ended
        return False
