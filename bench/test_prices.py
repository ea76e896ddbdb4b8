"""What every rung of `optimized` costs and buys: alone, taken out of FULL, cumulative."""

from __future__ import annotations

from typing import Any

import pytest

from bench.contenders import PRICED
from bench.prices import ANCHORS, PROOF, ladder, price, row
from bench.session import Session


def test_every_rung_has_three_prices(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    if session.plan.ladder is None:
        pytest.skip("the prices of the rungs take longer than a quick run")
    workload, sittings = session.plan.ladder
    turns = {sitting: session.sitting(workload, sitting, ladder(), len(ANCHORS), PROOF) for sitting in sittings}
    for rung in PRICED:
        tasks: dict[str, Any] = {}
        for sitting, found in turns.items():
            tasks |= price(found, workload, sitting, rung)
        session.prices.append(row(rung, workload, tasks, session.passes))
    unproven = {
        name: session.passes.found[size, name].why
        for size, name in session.passes.found
        if name in ladder() and not session.passes.found[size, name].passed
    }
    assert not unproven, f"no parity pass, no number: {unproven}"
