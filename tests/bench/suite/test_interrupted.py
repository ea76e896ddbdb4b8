"""Ctrl-C and kills while the benchmarks run: they end at once, leave no process, and the suite can continue."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.journal import Journal
from bench.suite.conftest import resumed
from bench.suite.result_file import read
from tests.bench.suite.made_up import ENVIRONMENT
from tests.process_group import start, wait_until_empty

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX's")

FEW = ("--quick", "--device", "cpu", "--workloads", "smoke", "--contenders", "reference", "--threads", "1")
FORWARD = "smoke-training-forward"  # of one contender: a single test


@pytest.mark.slow
def test_a_comparison_ends_in_one_line_and_its_workers_with_it(tmp_path: Path) -> None:
    options = ("--size", "tiny", "--steps", "0", "--contenders", "reference", "huggingface-sdpa", "--seconds", "900")
    with start("-m", "bench", "compare", *options, cwd=tmp_path) as process:
        assert process.stderr is not None
        errors = []
        while not errors or not re.search("timing training steps", errors[-1]):
            errors.append(process.stderr.readline())
            assert errors[-1], f"it ended before: {errors}"
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        errors += process.communicate(timeout=60)[1].splitlines()
    assert (process.returncode, errors[-2:]) == (130, ["", "stopped"])
    assert len(family) >= 2, "it was not timing"
    assert wait_until_empty(process.pid) == []
    assert "Traceback" not in "".join(errors)


class Run:
    """A run of the suite, to its end, that sends itself a signal: see tests/bench/suite/struck.py."""

    def __init__(
        self, *options: object, keyword: str, at: str = "", kind: str = "SIGINT", patient: bool = False
    ) -> None:
        suite = (
            "pytest",
            "bench/suite/test_models.py",
            "-p",
            "tests.bench.suite.struck",
            "-p",
            "no:cacheprovider",
            "-k",
            keyword,
        )
        struck = {"STRIKE_AT": at, "STRIKE_WITH": kind, "PATIENT": "yes" if patient else ""}
        with start("-m", *suite, "-p", "no:xdist", *options, **struck) as process:
            self.out, error = process.communicate(timeout=300)
        self.status, self.errors = process.returncode, error.splitlines()
        self.stderr = error
        assert wait_until_empty(process.pid) == []
        assert "Traceback" not in self.out + error, self.out + error


def last_line(own: Path, keyword: str) -> str:
    """The last line of a stopped run."""
    left = f"{own}.partial"
    return f"stopped; continue with: nox -s bench -- -k {shlex.quote(keyword)} --json {own} --resume {left}"


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "place,kind,begun",
    [
        pytest.param("proof", "SIGINT", True, marks=slow),
        pytest.param("proof", "SIGTERM", True, marks=slow),
        pytest.param("start", "SIGINT", False, marks=slow),
        pytest.param("start", "SIGTERM", False, marks=slow),
        pytest.param("collection", "SIGINT", False, marks=slow),
        pytest.param("in a long operation", "SIGINT", True, marks=slow),
        pytest.param("in a long operation", "SIGTERM", True, marks=slow),
        pytest.param("round of forward", "SIGTERM", True, marks=slow),
        pytest.param("after a test", "SIGINT", True, marks=slow),
        pytest.param("round of forward,saving", "SIGINT", True, marks=slow),
        pytest.param("saving", "SIGINT", True, marks=slow),
    ],
)
def test_a_suite_ends_with_the_signals_status_and_its_last_line_says_how_to_continue(
    place: str, kind: str, begun: bool, tmp_path: Path
) -> None:
    own = tmp_path / "suite.json"
    run = Run(*FEW, f"--json={own}", keyword=FORWARD, at=place, kind=kind)
    assert run.status == 128 + signal.Signals[kind], run.out + run.stderr
    assert run.errors[-1] == (last_line(own, FORWARD) if begun else "stopped")
    assert Path(f"{own}.partial").exists() == begun


@pytest.mark.slow
def test_a_suite_stopped_during_its_imports_ends_with_the_signals_status(tmp_path: Path) -> None:
    run = Run(*FEW, f"--json={tmp_path / 'suite.json'}", keyword=FORWARD, at="import")
    assert (run.status, run.out) == (130, "")


@pytest.mark.slow
def test_a_stopped_and_killed_suite_continues_and_measures_nothing_twice(tmp_path: Path) -> None:
    own, keyword = tmp_path / "suite.json", "smoke-t and not texts and (forward or per_token)"
    left = Path(f"{own}.partial")
    run = Run(*FEW, f"--json={own}", keyword=keyword, at="round of generation", patient=True)
    assert (run.status, run.errors[-1]) == (130, last_line(own, keyword)), run.out
    assert "smoke/training: forward of reference" in run.stderr
    assert {case["scenario"] for case in read(own)["cases"]} == {"training"}, "measurements so far are written too"

    resumed = (f"--resume={left}", f"--json={own}")
    run = Run(*resumed, keyword=keyword, at="round of generation", kind="SIGKILL")
    assert run.status == -signal.SIGKILL
    assert f"continuing {left}: " in run.stderr
    assert "smoke/training: forward of reference" not in run.stderr, "it is in the journal"
    assert "proving" not in run.stderr

    run = Run(*resumed, keyword=keyword)
    assert run.status == 0, run.out
    assert "smoke/training: forward of reference" not in run.stderr
    assert "smoke/text: per_token of reference" in run.stderr
    result = read(own)
    assert {case["scenario"] for case in result["cases"]} == {"training", "text"}
    assert len(result["resumed"]) == 2
    assert result["arguments"]["contenders"] == ["reference"]
    assert not left.exists()


@pytest.mark.slow
def test_a_suite_stopped_after_its_last_test_is_complete_when_it_continues(tmp_path: Path) -> None:
    own = tmp_path / "suite.json"
    assert Run(*FEW, f"--json={own}", keyword=FORWARD, at="after a test").status == 130
    run = Run(f"--resume={own}.partial", f"--json={own}", keyword=FORWARD)
    assert run.status == 0, run.out
    assert "forward of reference" not in run.stderr
    assert [case["task"] for case in read(own)["cases"]] == ["forward"]
    assert [path.name for path in tmp_path.iterdir()] == ["suite.json"]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of a run that began with `FEW`."""
    few = {"quick": True, "workloads": ["smoke"], "contenders": ["reference"], "threads": 1, "device": "cpu"}
    journal = Journal(tmp_path / "suite.json.partial", "suite", "nox -s bench --", ENVIRONMENT, few)
    journal.once("rate", 1, lambda: 1.0)
    return journal


def config_of(journal: Journal, **options: Any) -> Any:
    """A pytest config with --resume and other options."""
    usual = {"quick": False, "workloads": "", "contenders": "", "threads": None, "device": "", "json": None}
    option = SimpleNamespace(**{**usual, "keyword": "", "markexpr": "", "resume": journal.path, **options})
    return SimpleNamespace(option=option)


def test_a_suite_continues_with_its_first_options(journal: Journal) -> None:
    for options in ({}, {"contenders": "reference", "threads": 1}):
        config = config_of(journal, **options)
        assert resumed(config).found == journal.found
        option = config.option
        assert (option.quick, option.workloads, option.contenders) == (True, "smoke", "reference")
        assert (option.threads, option.device) == (1, "cpu")


@pytest.mark.parametrize(
    "name,value,before",
    [
        ("contenders", "optimized", "with --contenders reference"),
        ("workloads", "mini", "with --workloads smoke"),
        ("threads", 2, "with --threads 1"),
        ("threads", 0, "with --threads 1"),
        ("device", "cuda", "with --device cpu"),
    ],
)
def test_a_suite_continues_with_no_other_options(name: str, value: Any, before: str, journal: Journal) -> None:
    with pytest.raises(ValueError, match=r"^--resume ") as error:
        resumed(config_of(journal, **{name: value}))
    assert str(error.value) == (
        f"--resume {journal.path} with --{name} {value}: it was begun {before}; leave it out, or start again without "
        "--resume"
    )


@pytest.mark.slow
def test_other_options_than_the_stopped_runs_are_a_usage_error(journal: Journal) -> None:
    run = Run(f"--resume={journal.path}", "--contenders", "optimized", keyword=FORWARD)
    assert run.status == 4
    (line,) = [line for line in run.errors if line]
    assert line.startswith(f"ERROR: --resume {journal.path} with --contenders optimized: it was begun with ")
