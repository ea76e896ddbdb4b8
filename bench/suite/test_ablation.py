"""What every rung of `optimized` costs and buys: alone, leave-one-out, cumulative."""

from __future__ import annotations

from typing import Any

import pytest

from bench.contenders import PRICED
from bench.suite.ablation import ANCHORS, PROOF, UNPRICED, ladder, price, row
from bench.suite.session import Session
from bench.workloads.scenarios import named
from optimized import best


def test_every_rung_has_three_prices(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    if session.plan.ladder is None:
        pytest.skip("the prices of the rungs take longer than a quick run")
    workload, starts = session.plan.ladder.workload, session.plan.ladder.starts
    here = best(str(session.device), "float32", named(workload).config)
    names = ladder(here)
    session.left_out += [f"prices of {name}: it {why}" for name, why in UNPRICED.items()]
    turns = {
        sitting: session.sitting(workload, sitting, names, len(ANCHORS), PROOF, starts)
        for sitting in session.plan.ladder.sittings
    }
    recompiled = {
        f"{name}, {task}"
        for of in turns.values()
        for name, tasks in of.items()
        for task in tasks
        if tasks[task].recompiled
    }
    assert not recompiled, f"graphs were compiled during the rounds: {recompiled}"
    for rung in PRICED:
        tasks: dict[str, Any] = {}
        for sitting, found in turns.items():
            tasks |= price(found, workload, sitting, rung, here)
        session.prices.append(row(rung, workload, tasks, session.passes, here))
    unproven = {
        name: found.why for (*_, name), found in session.passes.found.items() if name in names and not found.passed
    }
    assert not unproven, f"no parity pass, no number: {unproven}"
