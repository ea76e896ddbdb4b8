"""A/A test: a contender timed against a second copy of it, in several launches of both."""

from __future__ import annotations

from dataclasses import asdict

from bench.suite.session import Session
from bench.timing.interleave import TimeBudget
from bench.timing.ratios import Ratio, ratio
from bench.workloads.scenarios import named

LAUNCHES = 3  # to include differences between launches


def run_aa_test(session: Session, workload: str, task: str, name: str, least: int, most: int) -> Ratio:
    """Time a contender against itself in a task that is a scenario by itself; kept for the result.

    Args:
        least, most: rounds of one launch
    """
    time_budget = TimeBudget(LAUNCHES * session.plan.seconds, LAUNCHES * least, LAUNCHES * most)
    found = session.timings_of(named(workload), task, (name, name), launches=LAUNCHES, time_budgets={task: time_budget})
    if not found:
        raise session.leave_out(f"{workload}/{task}: {name} has no parity pass")
    first, again = (found[label][task] for label in (name, f"{name} (again)"))
    overall = again.times_as_fast(first)
    session.aa_test = {
        "contender": name,
        "workload": workload,
        "task": task,
        "ratio": asdict(overall),
        "launches": [asdict(ratio(a, b)) for a, b in zip(first.by_launch(), again.by_launch(), strict=True)],
    }
    return overall
