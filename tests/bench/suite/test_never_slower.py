"""The suite's test that the default recipe is never slower than plain code fails if it is slower."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.suite import test_regression as regression
from bench.suite.plan import Row
from bench.suite.session import LeftOut
from bench.timing.ratios import ratio
from bench.workloads.workload import Workload

STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99]


class Timed:
    """Fake timings of one contender, with what a ratio needs."""

    def __init__(self, factor: float) -> None:
        self.seconds = [factor * one for one in STEADY]

    def times_as_fast(self, other: Timed) -> Any:
        return ratio(other.seconds, self.seconds)


def session_of(fast: float, quick: bool = False, left_out: tuple[str, ...] = ()) -> Any:
    """A fake session: the default recipe takes `fast` times as long as PLAIN and the reference."""

    def timings_of(work: Workload, scenario: str, names: tuple[str, ...], launches: int) -> dict[str, dict[str, Timed]]:
        if work.name in left_out:
            raise LeftOut(f"{work.name} does not fit")
        return {name: {"forward": Timed(fast if name == "optimized" else 1.0)} for name in names}

    rows = tuple(Row(name, ("training",), ("reference", "plain", "optimized")) for name in ("smoke", "mini"))
    return SimpleNamespace(plan=SimpleNamespace(rows=rows), timings_of=timings_of, quick=quick)


def judge(session: Any, scenario: str = "training") -> None:
    regression.test_the_default_recipe_is_nowhere_slower_than_plain_code(scenario, "cpu", {"cpu": session})


@pytest.mark.parametrize("fast", [0.5, 1.0, 1.05])
def test_as_fast_or_faster_passes(fast: float) -> None:
    judge(session_of(fast))


def test_slower_at_any_workload_fails_with_the_ratio_against_each() -> None:
    with pytest.raises(AssertionError, match=r"smoke/forward: 0\.67 \[.*\] times reference; smoke/forward: 0\.67"):
        judge(session_of(1.5))
    with pytest.raises(AssertionError, match="mini/forward"):
        judge(session_of(1.5, left_out=("smoke",)))


def test_without_anything_to_compare_it_is_skipped_and_not_passed() -> None:
    with pytest.raises(pytest.skip.Exception, match="is not part of this run"):
        judge(session_of(0.5, left_out=("smoke", "mini")))
    with pytest.raises(pytest.skip.Exception, match="in texts is not part of this run"):
        judge(session_of(0.5), "texts")
