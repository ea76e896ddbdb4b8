"""pytest-benchmark's own commands work on the samples that the suite replays to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.suite.replay import ReplayClock
from tests.bench.suite.test_suite_run import bench

SAMPLES = [0.25, 0.5, 0.375]
# fakes the workers: components with made-up times, those of the fused optimizer multiplied by FACTOR
MADE_UP = f"""
import os
from bench.suite import component_timing
from bench.suite.component_timing import Outcome
from bench.suite.components import COMPONENTS

def measure(group, workload, device, seconds, with_memory=True):
    made = {{"workload": workload, "group": group, "description": "", "unit": "tokens", "amount": 1, "per_second": 1.0,
            "spread": 0.0, "calls": 1, "error": 0.0, "memory": None}}

    def row(name):
        factor = float(os.environ["FACTOR"]) if "fused" in name else 1.0
        taken = [factor * one for one in {SAMPLES}]
        return {{"name": f"{{workload}}/{{name}}", "component": name, "seconds": taken, **made}}

    return {{name: Outcome(row=row(name)) for name, one in COMPONENTS.items() if one.group == group}}

component_timing.measure = measure
"""


def test_the_clock_moves_by_the_samples_alone() -> None:
    clock, samples = ReplayClock(), iter(SAMPLES)
    assert clock() == clock() == 0.0
    for now in (0.25, 0.75, 1.125):
        clock.replay(samples)
        assert clock() == clock() == now


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that pytest-benchmark has saved."""
    folder = tmp_path_factory.mktemp("store")
    done = run(folder, 1.0, "--benchmark-autosave", "--benchmark-save-data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"saved for pytest-benchmark in {folder}" in done.stdout
    assert "Components" in done.stdout
    assert "Rounds" not in done.stdout, "pytest-benchmark's tables are shown too"
    return folder


def run(store: Path, factor: float, *options: str) -> subprocess.CompletedProcess[str]:
    """The suite's optimizer components, with made-up times."""
    (store / "made_up_components.py").write_text(MADE_UP)
    few = (
        "bench/suite/test_components.py",
        "--quick",
        "--device",
        "cpu",
        "-k",
        "optimizer",
        "-p",
        "made_up_components",
    )
    own = (f"--json={store / 'suite.json'}", f"--benchmark-storage=file://{store}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FACTOR", str(factor))
        return bench(*few, *own, *options, path=store)


@pytest.mark.slow
def test_autosave_keeps_the_samples_as_they_were_taken(store: Path) -> None:
    (saved,) = store.glob("*/0001_*.json")
    found: list[dict[str, Any]] = json.loads(saved.read_text())["benchmarks"]
    assert [one["extra_info"]["component"] for one in found] == ["optimizer, by hand", "optimizer, fused_adamw"]
    assert [one["stats"]["data"] for one in found] == [SAMPLES, SAMPLES]
    assert {one["options"]["timer"] for one in found} == {"ReplayClock"}


@pytest.mark.slow
def test_benchmark_compare_shows_one_table_and_fails_where_a_median_is_worse(store: Path) -> None:
    done = run(store, 1.5, "--benchmark-compare=0001", "--benchmark-compare-fail=median:10%")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "(0001_" in done.stdout, "the saved run"
    assert "(NOW)" in done.stdout
    assert "Components" not in done.stdout, "the suite's tables are shown too"
    (regressed,) = re.findall(r"Performance has regressed:\n((?:\t.*\n)+)", said)
    assert regressed.count("has failed") == 1, "the optimizer by hand took as long as before"
    assert "fused" in regressed, regressed


@pytest.mark.slow
def test_the_command_compare_reads_a_saved_run(store: Path) -> None:
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", f"file://{store}", "compare", "0001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "optimizer, by hand" in done.stdout
    assert "375.0000" in done.stdout, "the median, in milliseconds"
