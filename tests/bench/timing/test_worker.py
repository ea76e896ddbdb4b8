"""Worker processes: they run in turn, measure their memory, and report why one failed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from bench.contenders import CONTENDERS
from bench.timing import child_process
from bench.timing.worker import Job, crew, in_turn, job
from bench.workloads.scenarios import SCENARIOS
from bench.workloads.workload import workload

CPU = torch.device("cpu")
WORK = replace(workload("tiny", 2, 16), new=3)

pytestmark = pytest.mark.usefixtures("one_thread")


def job_of(name: str) -> Job:
    return job(name, WORK, "compare", "float32", CPU)


@dataclass
class Recorder:
    """A fake worker that logs its requests."""

    name: str
    log: list[str] = field(default_factory=list)

    def time(self, task: str) -> float:
        self.log.append(f"{self.name} {task}")
        return float(len(self.log))


def test_workers_run_in_turn() -> None:
    log: list[str] = []
    workers: Any = {name: Recorder(name, log) for name in "ab"}
    assert in_turn(workers, "forward") == {"a": 1.0, "b": 2.0}
    assert log == ["a forward", "b forward"]


def test_a_worker_does_every_task_and_measures_its_memory() -> None:
    with crew([job_of("kv_cache")]) as workers:
        processes = [worker.process for worker in workers.values()]
        for worker in workers.values():
            before = worker.peak().bytes
            assert all(worker.time(task) > 0.0 for task in SCENARIOS["compare"])
            peak = worker.peak()
            assert peak.bytes >= max(before, 4 * WORK.config.parameter_count())
            assert peak.method == "resident"
            assert peak.baseline > 50e6, "the interpreter and torch"
    assert all(process.poll() is not None for process in processes), "a worker is left over"


@pytest.mark.slow
def test_a_failure_is_reported_by_its_last_line_and_ends_the_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    usual = child_process.launch

    def launch(*arguments: Any, **streams: Any) -> subprocess.Popen[str]:
        started.append(usual(*arguments, **streams))
        return started[-1]

    monkeypatch.setattr(child_process, "launch", launch)
    jobs = [replace(job_of("plain"), name="none"), job_of("reference")]
    with pytest.raises(RuntimeError, match=r"^timing none failed with status 1: KeyError: 'none'"), crew(jobs):
        pytest.fail("the crew was not ready")
    assert len(started) == 2
    assert all(process.poll() is not None for process in started), "a worker is left over"


def test_every_rung_that_can_change_a_timed_task_is_a_contender() -> None:
    from optimized import RUNGS

    assert set(RUNGS) - set(CONTENDERS) == {"ddp", "tf32"}
    for name, rounds in (("full", True), ("bf16", True), ("plain", False)):
        assert CONTENDERS[name].uses_bfloat16(WORK.config, CPU) is rounds
