"""Whole models: forward, loss and gradient, training step, the first token of a text, each further token.

Every contender works in a process of its own, all in turn (bench/timing/interleave.py): compiled and warmed up before,
synchronised inside. What pytest-benchmark times here is the clock of those processes: the samples, round by round, as
they were taken next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.suite.session import Session
from bench.workloads.scenarios import named

Case = tuple[str, str, str, str, str]  # device, workload, sitting, task, contender


class WorkersClock:
    """Moves only while a worker works."""

    __name__ = "WorkersClock"

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, samples: Iterator[float]) -> None:
        """Let the time of the next sample go by."""
        self.now += next(samples)


CLOCK = WorkersClock()


@pytest.mark.benchmark(timer=CLOCK)
def test_model(case: Case, sessions: dict[str, Session], benchmark: Any) -> None:
    device, workload, sitting, task, name = case
    session = sessions[device]
    row = next(row for row in session.plan.rows if row.workload == workload)
    found = session.sitting(workload, sitting, row.contenders, starts=row.starts)
    if name not in found:
        passed = session.passes.of(named(workload), [name])[name]
        if passed.unlike:
            raise session.leave_out(f"{workload}: {name}: {passed.why}")
        pytest.fail(f"no parity pass, no number: {name} at {workload}: {passed.why}", pytrace=False)
    turns = found[name][task]
    measured = session.case(workload, sitting, task, name, turns)
    benchmark.group = f"{device}: {workload}, {sitting}, {task}"
    benchmark.extra_info.update(measured, environment=session.environment)
    benchmark.pedantic(CLOCK.pass_by, args=(iter(turns.seconds),), rounds=len(turns.seconds))
    assert turns.recompiled == 0, f"{turns.recompiled} graphs were compiled during the rounds: they were not all warm"
