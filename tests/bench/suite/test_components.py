"""Components of the suite: each is compared with the readable one and has its own peak memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.journal import without_journal
from bench.suite import components, test_components
from bench.suite.component_timing import Outcome, peaks_of
from bench.suite.components import ALLOWED, COMPONENTS
from bench.suite.replay import CLOCK
from bench.suite.result_file import read
from bench.workloads.scenarios import named
from bench.workloads.workload import Workload
from tests.bench.suite.test_suite_run import bench

CPU = torch.device("cpu")
WORK = named("smoke")


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_runs_and_equals_the_readable_one(name: str, tmp_path: Path) -> None:
    prepared = COMPONENTS[name].prepare(WORK, CPU, tmp_path)
    assert prepared.amount > 0
    for _ in range(2):
        prepared.call()
    assert prepared.error() <= ALLOWED


def test_every_group_of_components_exists() -> None:
    groups = {component.group for component in COMPONENTS.values()}
    assert groups == {
        *("attention", "loss", "optimizer", "tokenizers, encode", "tokenizers, decode", "batches"),
        *("checkpoint, save", "checkpoint, load"),
    }


@pytest.mark.parametrize(
    "name,place,wrong",
    [
        ("attention, sdpa", "FlashAttention", lambda config: lambda q, k, v: q * 0.5 + v),
        (
            "loss, fused_loss",
            "fused_loss",
            lambda x, table, targets: components.plain_loss(x * 1.001, table, targets),
        ),
    ],
)
def test_a_component_that_is_another_function_is_found(
    name: str, place: str, wrong: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(components, place, wrong)
    assert COMPONENTS[name].prepare(WORK, CPU, tmp_path).error() > ALLOWED


@pytest.mark.slow
def test_a_components_memory_is_only_that_of_its_call() -> None:
    names = ["loss, plain", "loss, fused_loss"]
    plain, fused = peaks_of(names, {"workload": "mini", "device": "cpu", "threads": 1}).values()
    logits = 4 * 4 * 128 * 50257  # float32, B T V
    assert plain > 2 * logits
    assert fused < 2 * logits


class Shown:
    """A fake pytest-benchmark fixture: times rounds by the replay clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, call: Callable[..., None], args: tuple[Any, ...], rounds: int) -> None:
        for _ in range(rounds):
            start = CLOCK()
            call(*args)
            self.seconds.append(CLOCK() - start)


class Session:
    """A fake session with the attributes that the test needs."""

    def __init__(self) -> None:
        self.device, self.plan, self.quick = CPU, SimpleNamespace(seconds=0.5), True
        self.environment: dict[str, Any] = {"device": "Some CPU"}
        self.components: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.keep = without_journal

    def check_memory(self, work: Workload, scenario: str) -> None:
        self.log.append(f"does {work.name}/{scenario} fit")

    def tell(self, what: str) -> None:
        self.log.append(what)

    def give_back(self) -> None:
        self.log.append("given back")


def test_a_group_is_measured_once_and_every_sample_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(
        group: str, workload: str, device: torch.device, seconds: float, with_memory: bool
    ) -> dict[str, Outcome]:
        session.log.append(f"{group} at {workload} on {device}, {seconds} s, with_memory: {with_memory}")
        samples = [0.25, 0.5, 0.25]
        return {"attention, explicit": Outcome(row={"seconds": samples}), "attention, sdpa": Outcome("it is off")}

    monkeypatch.setattr(test_components.component_timing, "measure", measure)
    session, shown, groups = Session(), Shown(), {}
    sessions: Any = {"cpu": session}
    test_components.test_component(("cpu", "smoke", "attention, explicit"), sessions, groups, shown)
    assert shown.seconds == [0.25, 0.5, 0.25]
    assert shown.extra_info == {"seconds": [0.25, 0.5, 0.25], "environment": session.environment}
    with pytest.raises(pytest.fail.Exception, match="it is off"):
        test_components.test_component(("cpu", "smoke", "attention, sdpa"), sessions, groups, Shown())
    assert session.components == [{"seconds": [0.25, 0.5, 0.25]}], "a component that is off has no number"
    measured = "attention at smoke on cpu, 0.5 s, with_memory: False"
    assert session.log == [
        *("does smoke/training fit", "smoke: attention, in turn", "given back", measured, "does smoke/training fit")
    ]


def test_a_group_that_failed_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def measure(group: str, *_: Any, **__: Any) -> dict[str, Outcome]:
        tried.append(group)
        raise RuntimeError("no such luck")

    monkeypatch.setattr(test_components.component_timing, "measure", measure)
    groups: dict[Any, Any] = {}
    sessions: Any = {"cpu": Session()}
    for name in ("explicit", "sdpa"):
        with pytest.raises(RuntimeError, match="no such luck"):
            test_components.test_component(("cpu", "smoke", f"attention, {name}"), sessions, groups, Shown())
    assert tried == ["attention"]


@pytest.mark.slow
def test_a_run_shows_the_samples_of_the_other_process(tmp_path: Path) -> None:
    own, theirs = tmp_path / "suite.json", tmp_path / "benchmark.json"
    few = ("bench/suite/test_components.py", "--quick", "--device", "cpu", "-k", "optimizer")
    done = bench(*few, f"--json={own}", f"--benchmark-json={theirs}")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {component["component"]: component for component in read(own)["components"]}
    assert list(rows) == ["optimizer, by hand", "optimizer, fused_adamw"]
    assert all(component["ratios"].keys() == {"optimizer, by hand"} for component in rows.values())
    shown = json.loads(theirs.read_text())["benchmarks"]
    assert len(shown) == 2
    for benchmark in shown:
        assert benchmark["stats"]["data"] == pytest.approx(rows[benchmark["extra_info"]["component"]]["seconds"])
