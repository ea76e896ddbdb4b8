"""Ctrl-C while a comparison runs: it ends at once, and nothing is left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX's"),
]


class Running:
    """A command in a process group of its own, struck when it has written a word to standard error."""

    def __init__(self, *arguments: str, cwd: Path = ROOT) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out = ""
        self.errors: list[str] = []
        # or the pipe is full and it waits for somebody to read
        self.reader = threading.Thread(target=self.read_out, daemon=True)
        self.reader.start()

    def read_out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            self.out = stdout.read()

    def strike(self, word: str, kind: signal.Signals = signal.SIGINT) -> tuple[int, list[psutil.Process]]:
        """Wait for a word, signal; returns the status and the processes that it had started."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)
            if re.search(word, line):
                break
        else:
            pytest.fail(f"it ended before: {self.errors}")
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, kind)
        return self.end(), family

    def end(self) -> int:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            self.errors += errors.readlines()
        self.reader.join()
        return self.process.wait(timeout=60)


def test_a_comparison_ends_in_one_line_and_its_workers_with_it(tmp_path: Path) -> None:
    options = ("--size", "tiny", "--steps", "0", "--contenders", "reference", "huggingface-sdpa", "--seconds", "900")
    running = Running("bench", "compare", *options, cwd=tmp_path)
    status, family = running.strike("timing training steps")
    assert (status, running.errors[-2:]) == (130, ["\n", "stopped\n"])
    assert len(family) >= 2, "it was not timing"
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert "Traceback" not in "".join(running.errors)
