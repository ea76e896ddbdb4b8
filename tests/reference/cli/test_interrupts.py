"""Ctrl-C ends a command at once: real signals to real process groups, inside operations of minutes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from reference.cli import interrupts
from reference.cli.main import finished
from tests.process_group import ROOT, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX's")

# Operations of a quarter of an hour each, during which Python cannot call a handler.
HASHING = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
MULTIPLYING = "torch.addbmm(torch.zeros(900, 900), *[torch.zeros(1, 900, 900).expand(200_000, 900, 900)] * 2)"


class Program:
    """A program in a process group of its own."""

    def __init__(self, code: str, *arguments: str, path: Path = ROOT) -> None:
        paths = os.pathsep.join(map(str, (path, ROOT)))
        self.process = start(*(arguments or ("-c", code)), PYTHONPATH=paths)

    def wait_for(self, line: str) -> None:
        """Wait until it writes a line."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n", self.process.communicate()

    def wait_until_busy(self) -> None:
        """Wait until it computes, after it has written "working"."""
        self.wait_for("working")
        process = psutil.Process(self.process.pid)
        before = process.cpu_times().user
        while process.cpu_times().user < before + 0.3:
            time.sleep(0.05)

    def strike(self, kind: signal.Signals = signal.SIGINT) -> None:
        os.killpg(self.process.pid, kind)

    def end(self) -> tuple[int, str]:
        """Wait for its end; returns its status and standard error."""
        try:
            _, error = self.process.communicate(timeout=120)
        finally:
            self.process.kill()
        return self.process.returncode, error


def command(operation: str, around: str = "contextlib.nullcontext()", before: str = "") -> str:
    """A program whose command is one long operation."""
    return f"""
import contextlib
from reference.cli import interrupts
from reference.cli.main import finished
{before}

def work():
    with {around}:
        print("working", flush=True)
        {operation}

if __name__ == "__main__":
    interrupts.leave(finished(work))
"""


def test_an_operation_of_torch_that_takes_minutes_is_ended_by_ctrl_c() -> None:
    program = Program(command(MULTIPLYING, before="import torch"))
    program.wait_until_busy()
    program.strike()
    assert program.end() == (130, "\nstopped\n")


@pytest.mark.parametrize(
    "operation,kind,status",
    [
        (HASHING, signal.SIGINT, 130),
        pytest.param(HASHING, signal.SIGTERM, 143, marks=pytest.mark.slow),
        ("while True: pass", signal.SIGINT, 130),  # in which Python calls its handler
    ],
    ids=["hashing-SIGINT", "hashing-SIGTERM", "looping-SIGINT"],
)
def test_the_command_says_in_one_line_how_to_go_on(operation: str, kind: signal.Signals, status: int) -> None:
    program = Program(command(operation, "interrupts.last_words(lambda: 'go on with --resume FILE')"))
    program.wait_until_busy()
    program.strike(kind)
    assert program.end() == (status, "\nstopped; go on with --resume FILE\n")


def test_a_signal_that_a_command_expects_is_told_at_once_and_the_second_ends_it() -> None:
    noting = "print('after this step', flush=True)"
    program = Program(
        command(
            HASHING,
            f"interrupts.expected(lambda: {noting})",
            before="import signal; signal.signal(signal.SIGINT, lambda number, frame: None)",
        )
    )
    program.wait_until_busy()
    program.strike()
    program.wait_for("after this step")
    program.strike()
    assert program.end() == (130, "\nstopped\n")


@pytest.mark.parametrize("package", ["reference", "optimized", "bench"])
def test_a_program_that_still_imports_is_ended_in_one_line(package: str, tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(900)\n")
    program = Program("", "-m", package, "--help", path=tmp_path)
    program.wait_for("importing")
    program.strike()
    assert program.end() == (130, "\nstopped\n")


def test_a_lesson_is_ended_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "altair.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(900)\n")
    program = Program("", "-m", "reference.lessons.autograd", path=tmp_path)
    program.wait_for("importing")
    program.strike()
    assert program.end() == (130, "\nstopped\n")


def test_a_command_that_heeds_ctrl_c_by_itself_leaves_everything_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for kind, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        assert finished(lambda kind=kind: signal.raise_signal(kind)) == status  # type: ignore[misc]
        assert capsys.readouterr().err == "\nstopped\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "interrupts"]
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.end_at_once()
        assert finished(lambda: signal.raise_signal(signal.SIGINT) or 7) == 7
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_a_command_runs_without_a_watch() -> None:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(finished(lambda: 7)))
    thread.start()
    thread.join()
    assert statuses == [7]
