"""Runs of the suite: their options and results, and that nothing unproven gets a number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.suite.conftest import BEGUN, devices_for, is_whole, split
from bench.suite.result_file import read
from reference.training.devices import available_devices

ROOT = Path(__file__).parents[3]

# The values that every number must come with.
EXTRA_INFO = {
    *("tokens_per_second", "spread", "flops_per_token", "mfu", "memory", "parity", "environment", "compile", "floor"),
    *("ratios", "precision", "batch"),
}
ENVIRONMENT = {"device", "identity", "cpu_flags", "clocks", "packages", "threads", "commit"}

WRONG = """
from dataclasses import replace
from bench import contenders
from reference import GPT

class Wrong(GPT):
    def forward(self, ids):
        return super().forward(ids) * 1.01

def build(config, weights, device, dtype):
    model = Wrong(config).to(device, dtype)
    if weights is not None:
        model.load_state_dict(weights)
    return model

contenders.CONTENDERS["full-float32"] = replace(contenders.CONTENDERS["reference"], build=build)
"""


def bench(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    paths = os.pathsep.join(str(p) for p in (path, os.environ.get("PYTHONPATH")) if p)
    # pytest-benchmark is off in a worker of xdist, which this process may be
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def test_all_kinds_of_devices_are_found_and_others_are_one_line() -> None:
    there = available_devices()
    assert devices_for(())[0] == list(dict.fromkeys(name.split(":")[0] for name in there))
    assert devices_for(("cpu",)) == (["cpu"], [])
    found, missing = devices_for(("cpu", "quantum"))
    assert found == ["cpu"], "the other device is measured"
    assert missing == [f"device quantum: is not there, left out; this machine has {', '.join(there)}"]
    with pytest.raises(ValueError, match=r"^--device quantum: this machine has .*cpu$"):
        devices_for(("quantum",))
    assert split(" a, b,,a ") == ("a", "b")


@pytest.mark.parametrize(
    "arguments,message",
    [
        pytest.param(["--device", "quantum"], "ERROR: --device quantum: this machine has ", marks=pytest.mark.slow),
        pytest.param(["--workloads", "gpt9"], "ERROR: unknown workload 'gpt9': give some of ", marks=pytest.mark.slow),
        pytest.param(["--contenders", "me"], "ERROR: unknown contender 'me': give some of ", marks=pytest.mark.slow),
        pytest.param(["--json", "bench"], "ERROR: --json bench: is a folder: give the name", marks=pytest.mark.slow),
        pytest.param(["--threads", "0"], "ERROR: --threads 0: give a whole number of at", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    done = bench("bench/suite", *arguments)
    assert done.returncode == 4, "pytest's status for a usage error"
    assert done.stderr.strip().startswith(message)
    assert len(done.stderr.strip().splitlines()) == 1


OPTIONS = ("quick", "workloads", "contenders", "keyword", "markexpr", "deselect", "collectonly")


def run_of(exit_status: int = 0, begun: int | None = None, files: int | None = None, **options: Any) -> bool:
    """Whether a run with these options, exit status, begun tests and collected files counts as complete."""
    paths = sorted((ROOT / "bench" / "suite").glob("test_*.py"))[:files]
    items = [SimpleNamespace(path=path, nodeid=f"{path}::test") for path in paths]
    usual = dict.fromkeys(OPTIONS)
    config = SimpleNamespace(
        option=SimpleNamespace(**{**usual, **options}),
        args=options.get("args", ["bench/suite"]),
        stash={BEGUN: {item.nodeid for item in items[:begun]}},
    )
    session: Any = SimpleNamespace(config=config, items=items)
    return is_whole(session, exit_status)


def test_only_a_run_that_began_everything_becomes_its_devices_result() -> None:
    assert run_of()
    assert run_of(exit_status=1), "a failure is a line of the result"
    assert not run_of(exit_status=2), "interrupted"
    assert not run_of(exit_status=1, begun=3), "ended at the first failure"
    assert not run_of(files=3)
    assert not run_of(args=["bench/suite/test_models.py::test_model"])
    for option in (*OPTIONS, "lf"):
        assert not run_of(**{option: "something"}), option


@pytest.mark.slow
def test_a_run_writes_all_details_of_a_number(tmp_path: Path) -> None:
    own, theirs = tmp_path / "suite.json", tmp_path / "benchmark.json"
    few = ("--quick", "--device", "cpu", "--workloads", "smoke", "--contenders", "full-float32")
    done = bench("bench/suite/test_models.py", *few, f"--json={own}", f"--benchmark-json={theirs}")
    assert done.returncode == 0, done.stdout + done.stderr
    result = read(own)
    names = [case["name"] for case in result["cases"]]
    tasks = [f"training/{task}" for task in ("forward", "loss_and_gradient", "training_step")]
    tasks += [f"{texts}/{task}" for texts in ("text", "texts") for task in ("prefill", "per_token")]
    assert names == [f"smoke/{task}/{name}" for task in tasks for name in ("reference", "full-float32")]
    for case in result["cases"]:
        assert case["tokens_per_second"] > 0.0
        assert case["mfu"]["measured"] > 0.0
        assert case["mfu"]["data_sheet"] is None, "a CPU has no data sheet"
        assert case["floor"]["seconds"] > 0.0
        assert case["memory"]["peak"] > 0
        assert len(case["seconds"]) >= 5
        trained = case["task"] in ("loss_and_gradient", "training_step") and case["contender"] == "full-float32"
        assert (case["compile"]["graphs"] > 0) == trained
    assert result["roofline"]["ceilings"]["float32"]["measured"] > 1e8
    assert {p["contender"] for p in result["parity"] if p["passed"]} == {"reference", "full-float32"}
    for benchmark in json.loads(theirs.read_text())["benchmarks"]:
        assert benchmark["extra_info"].keys() >= EXTRA_INFO
        assert benchmark["extra_info"]["environment"].keys() >= ENVIRONMENT
        assert benchmark["stats"]["data"] == pytest.approx(benchmark["extra_info"]["seconds"]), "as they were taken"
    assert "times reference" in done.stdout
    assert f"everything that was measured: {own}" in done.stdout


@pytest.mark.slow
def test_another_function_gets_no_number_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "makes_it_wrong.py").write_text(WRONG)
    own = tmp_path / "suite.json"
    few = ("--quick", "--device", "cpu", "--workloads", "smoke", "--contenders", "full-float32,huggingface-sdpa")
    done = bench(
        *("-p", "makes_it_wrong", "bench/suite/test_models.py", *few, "-k", "training-forward", f"--json={own}"),
        path=tmp_path,
    )
    assert done.returncode == 1
    assert "no parity pass, no number: full-float32 at smoke: " in done.stdout
    assert [case["contender"] for case in read(own)["cases"]] == ["reference", "huggingface-sdpa"]
    (line,) = read(own)["left_out"]
    failed = "failed: test_model[cpu-smoke-training-forward-full-float32]: no parity pass, no number: "
    assert line.startswith(f"{failed}full-float32 at smoke: ")


@pytest.mark.slow
def test_a_workload_that_does_not_fit_is_skipped_in_one_line_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "little_memory.py").write_text(
        "import bench.suite.session\nbench.suite.session.available_bytes = lambda _: 3 * 10**9\n"
    )
    own = tmp_path / "suite.json"
    few = ("--quick", "--device", "cpu,quantum", "--workloads", "gpt2-xl,smoke", "--contenders", "reference")
    done = bench(
        *("-p", "little_memory", "bench/suite/test_models.py", *few, "-k", "training-forward", f"--json={own}"),
        path=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = read(own)
    assert [case["name"] for case in result["cases"]] == ["smoke/training/forward/reference"]
    assert [line.split(":")[0] for line in result["left_out"]] == ["device quantum", "gpt2-xl"]
    assert "gpt2-xl: its proof in float64 needs about " in done.stdout
