"""Ctrl-C and kills while the benchmarks run: they end at once, nothing is left running, and the suite goes on."""

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

from bench.suite_results import read

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX's"),
]

SUITE = ("bench/test_models.py", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "smoke-t and not texts")
QUICK = ("--quick", "--device", "cpu", "--workloads", "smoke", "--contenders", "full-float32", "--threads", "1")


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
        self.out = self.process.stdout.read()

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
        self.errors += self.process.stderr.readlines()
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


def test_a_suite_that_was_stopped_twice_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    own = tmp_path / "suite.json"
    left = tmp_path / "suite.json.partial"
    running = Running("pytest", *SUITE, *QUICK, f"--json={own}")
    status, family = running.strike("smoke/text: per_token .* rounds")
    assert status == 130, running.out
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    way = f"stopped; go on with: nox -s bench -- --resume {left} -k '{SUITE[-1]}'"
    assert way in running.out.splitlines()
    assert "Traceback" not in running.out
    assert {case["sitting"] for case in read(own)["cases"]} == {"training"}, "what was measured is written, too"

    resumed = ("pytest", *SUITE, f"--resume={left}", f"--json={own}")
    running = Running(*resumed)
    status, _ = running.strike("smoke/text: start 1", signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not [line for line in running.errors if "smoke/training" in line], "it is known"

    running = Running(*resumed)
    assert running.end() == 0, running.out
    told = "".join(running.errors)
    assert "smoke/text: start 1 of 1" in told
    assert "smoke/training" not in told
    assert "proving" not in told
    result = read(own)
    assert {case["sitting"] for case in result["cases"]} == {"training", "text"}
    assert len(result["resumed"]) == 2
    assert result["arguments"]["contenders"] == ["full-float32"]
    assert not left.exists()


def test_a_suite_goes_on_only_with_its_own_options(tmp_path: Path) -> None:
    own, left = tmp_path / "suite.json", tmp_path / "suite.json.partial"
    running = Running("pytest", *SUITE, *QUICK, f"--json={own}")
    status, _ = running.strike("proving at", signal.SIGTERM)
    assert status == 143, running.out
    running = Running("pytest", *SUITE, f"--resume={left}", "--contenders", "reference")
    assert running.end() == 4, "pytest's for a mistake in its usage"
    assert running.errors[-1].strip() == (
        f"ERROR: --resume {left} with --contenders reference: it was begun with --contenders full-float32; leave it "
        "out, or start anew without --resume"
    )
