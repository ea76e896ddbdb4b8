"""Python processes that answer on lines of JSON, and end when their parent ends, whatever they compute.

A parent that is killed cannot end its children. So a thread of the child waits for the parent's end; and on Linux the
kernel kills the child, because no other thread runs while a kernel of torch.compile keeps Python's lock.
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

MARK = "answer: "  # before each answer, on a line of its own: libraries may print too
EVERY = 0.5  # seconds between two looks at the parent, where the system does not report its end
PR_SET_PDEATHSIG = 1  # prctl(2)


def launch(target: str, argument: Any, **streams: Any) -> subprocess.Popen[str]:
    """Launch a fresh interpreter that calls a function.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: of the function: anything that JSON holds
        streams: stdin, stdout and stderr, as `subprocess.Popen` takes them
    """
    # Linux takes the end of the launching thread for that of the parent
    lasting = threading.current_thread() is threading.main_thread()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(int(lasting)), target, json.dumps(argument)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "3000"),  # or waiting threads take the others' time
        },
        text=True,
        **streams,
    )


def say(answer: Any) -> None:
    """In the child: answer, on a line."""
    print(MARK + json.dumps(answer), flush=True)


def answers(lines: Iterable[str]) -> Iterator[Any]:
    """In the parent: what a child answers, among the other lines that it prints."""
    return (json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK))


def failure(what: str, status: int, errors: str) -> RuntimeError:
    """The error, in one line, for a child that ended without an answer: its status and its last line."""
    last = (errors.strip().splitlines() or ["it wrote nothing"])[-1]
    return RuntimeError(f"{what} failed with status {status}: {last}")


def function_of(target: str) -> Callable[[Any], Any]:
    """The function of "module:function"."""
    module, _, name = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def end_with(parent: int, lasting: bool) -> None:
    """From now on, end this process when its parent ends.

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
    """Return when the parent is gone, however it ended."""
    with suppress(AttributeError, OSError):  # not on Linux, or not allowed there; or it is gone
        end = select.poll()
        end.register(os.pidfd_open(parent), select.POLLIN)
        if os.getppid() == parent:  # else another process has the number by now
            end.poll()
    # on Windows the parent may be the launcher of a virtual environment
    while (os.name == "nt" or os.getppid() == parent) and is_running(parent):
        time.sleep(EVERY)


def is_running(process: int) -> bool:
    """Whether there is such a process. Windows alone has to be asked: elsewhere orphans get another parent."""
    if os.name != "nt":
        return True
    import psutil

    return psutil.pid_exists(process)


def main(parent: int, lasting: bool, target: str, argument: str) -> None:
    """Run the child."""
    end_with(parent, lasting)
    # Ctrl-C is for the parent, which ends its children; SIG_IGN would be inherited by the children's children
    signal.signal(signal.SIGINT, lambda number, frame: None)
    function_of(target)(json.loads(argument))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", *sys.argv[3:])
