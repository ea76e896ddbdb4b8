"""Tokens per second and memory of a training step as time, batch, depth, width and vocabulary grow."""

from __future__ import annotations

import pytest

from bench.suite.scaling import AXES, measure, points
from bench.suite.session import Session


@pytest.mark.parametrize("axis", AXES)
def test_a_curve(axis: str, device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    if not session.plan.scaling:
        pytest.skip("the curves take longer than a quick run")
    measured = {point.value: measure(session, point) for point in points() if point.axis == axis}
    recompiled = [value for value, found in measured.items() if any(timings.recompiled for timings in found.values())]
    assert not recompiled, f"graphs were compiled during the rounds: {recompiled}"
    assert any(measured.values()), "not one point could be measured"
