"""A child process of the benchmarks ends with its parent, even in the middle of a call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from bench.timing import child_process
from tests.process_group import start

MINUTES = 2 * 10**9  # rounds of hashing: a single call of 15 minutes

WORKER = """
import torch
from bench.timing.worker import crew, job
from bench.workloads.workload import workload

with crew([job("reference", workload("tiny", 2, 16), "forward", "float32", torch.device("cpu"))]) as workers:
    (worker,) = workers.values()
    worker.send("forward 1000000000")
    print(worker.process.pid, flush=True)
    worker.answer()
"""
CALL = """
from bench.timing.fresh_process import Call

call = Call("tests.bench.timing.test_child_process:hash_for_minutes", None, "hashing")
print(call.process.pid, flush=True)
call.result()
"""


LOCKED = CALL.replace("hash_for_minutes", "keep_the_lock_for_hours")


def keep_the_lock_for_hours(_: object) -> None:
    """Hold the GIL, like a kernel of torch.compile: no other thread of the process runs."""
    sum(range(10**13))


def hash_for_minutes(_: object) -> None:
    import hashlib

    hashlib.pbkdf2_hmac("sha256", b"", b"", MINUTES)


def at_work(parent: subprocess.Popen[str]) -> psutil.Process:
    """Read the child's pid from its parent's output and wait until the child computes."""
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert line, parent.communicate()
    child = psutil.Process(int(line))
    before = child.cpu_times().user
    while child.cpu_times().user < before + 0.3:
        time.sleep(0.05)
    return child


# two processes that import torch take ten seconds
of_each = pytest.mark.parametrize("code", [CALL, pytest.param(WORKER, marks=pytest.mark.slow)], ids=["call", "worker"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(CALL, marks=pytest.mark.slow),
        pytest.param(
            LOCKED, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl(PR_SET_PDEATHSIG)")
        ),
        pytest.param(WORKER, marks=pytest.mark.slow),
    ],
    ids=["call", "call that keeps Python's lock", "worker"],
)
def test_a_child_ends_in_the_middle_of_its_task_when_its_parent_is_killed(code: str) -> None:
    with start("-c", code) as parent:
        child = at_work(parent)
        parent.kill()
        parent.communicate()
        try:
            child.wait(timeout=60)
        finally:
            if child.is_running():
                child.kill()


LAUNCHED_BY_A_THREAD = """
import sys, threading
from pathlib import Path
from bench.timing.fresh_process import Call
from tests.bench.timing.test_child_process import wait_for

calls, folder = [], Path(sys.argv[1])

def launch():
    calls.append(Call("tests.bench.timing.test_child_process:outlive_a_thread", str(folder), "waiting"))
    wait_for(folder / "running")

thread = threading.Thread(target=launch)
thread.start()
thread.join()
(folder / "thread ended").touch()
print(calls[0].result())
"""


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def outlive_a_thread(folder: str) -> str:
    Path(folder, "running").touch()
    wait_for(Path(folder, "thread ended"))
    return "still there"


def test_a_child_outlives_the_thread_that_launched_it(tmp_path: Path) -> None:
    with start("-c", LAUNCHED_BY_A_THREAD, tmp_path) as parent:
        output, error = parent.communicate(timeout=60)
    assert output == "still there\n", error


def test_a_child_ends_if_its_parent_ended_before_it_could_watch_it() -> None:
    waiting = threading.Thread(target=child_process.wait_for_end, args=(2**22 + 1,), daemon=True)  # above any process
    waiting.start()
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_the_child_polls_its_parent_if_the_system_does_not_report_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(child_process, "EVERY", 0.01)
    parents = iter([7, 7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    child_process.wait_for_end(7)
    assert next(parents, None) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals to process groups")
@of_each
def test_the_parent_handles_ctrl_c_and_its_child_ends_with_it(code: str) -> None:
    with start("-c", code) as parent:
        child = at_work(parent)
        os.killpg(parent.pid, signal.SIGINT)
        _, error = parent.communicate()
        assert error.strip().splitlines()[-1] == "KeyboardInterrupt", "it was the child that failed"
        child.wait(timeout=60)
