"""The ablation of every rung of `optimized`: alone, leave-one-out, cumulative."""

from __future__ import annotations

from typing import Any

import pytest

from bench.contenders import ABLATED
from bench.suite.ablation import ANCHORS, NOT_ABLATED, PROOF, effects, ladder, row
from bench.suite.session import Session
from optimized import best


def test_every_rung_is_ablated(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    if session.plan.ladder is None:
        pytest.skip("the ablation takes longer than a quick run")
    work, launches = session.plan.ladder.work, session.plan.ladder.launches
    here = best(str(session.device), "float32", work.config)
    names = ladder(here)
    session.left_out += [f"ablation of {name}: it {why}" for name, why in NOT_ABLATED.items()]
    timings = {
        scenario: session.timings_of(work, scenario, names, len(ANCHORS), PROOF, launches)
        for scenario in session.plan.ladder.scenarios
    }
    recompiled = {
        f"{name}, {task}"
        for of in timings.values()
        for name, tasks in of.items()
        for task in tasks
        if tasks[task].recompiled
    }
    assert not recompiled, f"graphs were compiled during the rounds: {recompiled}"
    for rung in ABLATED:
        tasks: dict[str, Any] = {}
        for scenario, found in timings.items():
            tasks |= effects(found, work, scenario, rung, here)
        session.ablation.append(row(rung, work, tasks, session.gate, here))
    unproven = {
        name: found.why for (*_, name), found in session.gate.found.items() if name in names and not found.passed
    }
    assert not unproven, f"no parity pass, no number: {unproven}"
