"""Whole models: forward, loss and gradient, training step, the first token of a text, each further token.

Contenders are timed in turn, each in its own process (bench/timing/interleave.py), compiled and warmed up before, with
synchronisation inside the timed region. pytest-benchmark gets the samples by replay (bench/suite/replay.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite.cases import add_case
from bench.suite.replay import CLOCK, report
from bench.suite.session import Session

Case = tuple[str, str, str, str, str]  # device, workload, scenario, task, contender


@pytest.mark.benchmark(timer=CLOCK)
def test_model(case: Case, sessions: dict[str, Session], benchmark: Any) -> None:
    device, workload, scenario, task, name = case
    session = sessions[device]
    row = next(row for row in session.plan.rows if row.workload == workload)
    found = session.timings_of(row.work, scenario, row.contenders, launches=row.launches)
    if name not in found:
        passed = session.gate.of(row.work, [name])[name]
        if passed.unlike:
            raise session.leave_out(f"{workload}: {name}: {passed.why}")
        pytest.fail(f"no parity pass, no number: {name} at {workload}: {passed.why}", pytrace=False)
    timings = found[name][task]
    measured = add_case(session, row.work, scenario, task, name, timings)
    group = f"{device}: {workload}, {scenario}, {task}"
    report(benchmark, group, timings.seconds, {**measured, "environment": session.environment})
    assert timings.recompiled == 0, (
        f"{timings.recompiled} graphs were compiled during the rounds: they were not all warm"
    )
