"""Child processes in Python that answer in lines of JSON and end when their parent ends, even during a long call.

A killed parent cannot end its children. So a thread of the child waits for the parent's end. On Linux the kernel kills
the child too, because no Python thread runs while a kernel of torch.compile holds the GIL.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

MARK = "answer: "  # starts each line that holds an answer: libraries may print too
EVERY = 0.5  # seconds between checks of the parent, if the system does not report its end
PR_SET_PDEATHSIG = 1  # prctl(2)


def launch(target: str, argument: Any, **streams: Any) -> subprocess.Popen[str]:
    """Launch a fresh interpreter that calls a function.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: the function's argument, as plain JSON values
        streams: stdin, stdout and stderr, as `subprocess.Popen` takes them
    """
    # PR_SET_PDEATHSIG fires when the launching thread ends, not only when the process does
    lasting = threading.current_thread() is threading.main_thread()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(int(lasting)), target, json.dumps(argument)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            # waiting OpenMP threads that spin for long would slow the other processes
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "3000"),
        },
        text=True,
        **streams,
    )


def say(answer: Any) -> None:
    """In the child: print an answer as a line."""
    print(MARK + json.dumps(answer), flush=True)


def answers(lines: Iterable[str]) -> Iterator[Any]:
    """In the parent: parse the answers in a child's output; skip other lines."""
    return (json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK))


def failure(what: str, status: int, errors: str) -> RuntimeError:
    """The error for a child that ended without an answer: one line with its status and last line."""
    last = (errors.strip().splitlines() or ["it wrote nothing"])[-1]
    return RuntimeError(f"{what} failed with status {status}: {last}")


def function_of(target: str) -> Callable[[Any], Any]:
    """Import "module:function"."""
    module, _, name = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def end_with(parent: int, lasting: bool) -> None:
    """Make this process end when its parent ends.

    Args:
        lasting: whether the thread that launched this process lasts as long as its process
    """
    if lasting and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        wait_for_end(parent)
        os._exit(1)

    threading.Thread(target=wait, name="end with the parent", daemon=True).start()


def wait_for_end(parent: int) -> None:
    """Wait until the parent has ended."""
    with suppress(AttributeError, OSError):  # not on Linux, forbidden, or the parent has ended
        end = select.poll()
        end.register(os.pidfd_open(parent), select.POLLIN)
        if os.getppid() == parent:  # else the pid may already belong to another process
            end.poll()
    # on Windows the parent may be the launcher of a virtual environment
    while (os.name == "nt" or os.getppid() == parent) and is_running(parent):
        time.sleep(EVERY)


def is_running(process: int) -> bool:
    """Whether a process exists. Asks only on Windows: elsewhere an orphan gets another parent."""
    if os.name != "nt":
        return True
    import psutil

    return psutil.pid_exists(process)


def main(parent: int, lasting: bool, target: str, argument: str) -> None:
    """Entry point of the child."""
    end_with(parent, lasting)
    # the parent handles Ctrl-C and ends its children; not SIG_IGN, which grandchildren would inherit
    signal.signal(signal.SIGINT, lambda number, frame: None)
    function_of(target)(json.loads(argument))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", *sys.argv[3:])
