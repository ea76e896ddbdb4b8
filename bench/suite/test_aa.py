"""A/A test: the interval of a contender's ratio to itself contains 1."""

from __future__ import annotations

from bench.suite.aa import run_aa_test
from bench.suite.plan import BASE
from bench.suite.session import Session

# 5 % of the intervals miss the true ratio, and other programs disturb them: allow a miss by 5 %, in a quick run 15 %
SLACK = {False: 1.05, True: 1.15}


def test_a_contender_is_as_fast_as_itself(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    ratio = run_aa_test(session, "smoke", "forward", BASE, least=9, most=51)
    slack = SLACK[session.quick]
    assert ratio.low / slack <= 1.0 <= ratio.high * slack, f"{ratio} for the A/A test of {BASE}"
