"""A/A test: a contender against itself gives a ratio whose interval holds 1."""

from __future__ import annotations

from bench.suite.plan import BASE
from bench.suite.session import Session
from bench.timing.interleave import TimeBudget

# 95 % of the intervals hold the truth, and other programs share most machines: so one may miss 1 by that much, and one
# of a quick run by more
SLACK = {False: 1.05, True: 1.15}


def test_a_contender_is_as_fast_as_itself(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    time_budget = TimeBudget(session.plan.seconds, least=9, most=51)
    ratio = session.run_aa_test("smoke", "forward", "forward", BASE, time_budget)
    slack = SLACK[session.quick]
    assert ratio.low / slack <= 1.0 <= ratio.high * slack, f"{ratio} for the A/A test of {BASE}"
