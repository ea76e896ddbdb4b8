"""The fast model is still fast: ratios of one run, with bounds so wide that only a real loss crosses them."""

from __future__ import annotations

import pytest

from bench.suite.session import LeftOut, Session

MINI = ("mini", "mini-64")  # the first one in the plan

# contender, against, workloads, scenario, task, least ratio: about half of the ratio on a two-core CPU, or about 1 if
# that is higher.
BOUNDS = [
    ("optimized", "reference", MINI, "training", "training_step", 1.3),
    ("optimized", "huggingface-sdpa", MINI, "training", "training_step", 0.9),
    ("optimized", "reference", ("smoke",), "text", "per_token", 0.9),
    ("optimized", "reference", ("smoke",), "training", "forward", 0.8),
]


@pytest.mark.parametrize(
    "name,against,workloads,scenario,task,least", BOUNDS, ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_the_fast_model_is_not_slower_than_it_was(
    name: str,
    against: str,
    workloads: tuple[str, ...],
    scenario: str,
    task: str,
    least: float,
    device: str,
    sessions: dict[str, Session],
) -> None:
    session = sessions[device]
    row = next((row for row in session.plan.rows if row.workload in workloads), None)
    if row is None or not {name, against} <= set(row.contenders) or scenario not in row.scenarios:
        pytest.skip(f"{name} against {against} in {workloads[0]}/{task} is not part of this run")
    found = session.timings_of(row.work, scenario, row.contenders)
    ratio = found[name][task].times_as_fast(found[against][task])
    assert ratio.high >= least, (
        f"{name} is {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times as fast as {against} in "
        f"{row.workload}/{task}: at least {least} is expected"
    )


# The default recipe must never be slower than the readable code or PLAIN, at any workload of the suite. The slack is
# for the noise of three rounds and of launches.
BASES = ("reference", "plain")
SLACK = {False: 1.1, True: 1.2}  # key: whether the run is quick


@pytest.mark.parametrize("scenario", ["training", "text", "texts"])
def test_the_default_recipe_is_nowhere_slower_than_plain_code(
    scenario: str, device: str, sessions: dict[str, Session]
) -> None:
    session = sessions[device]
    compared, slower = 0, []
    for row in session.plan.rows:
        if scenario not in row.scenarios or "optimized" not in row.contenders:
            continue
        try:
            found = session.timings_of(row.work, scenario, row.contenders, launches=row.launches)
        except LeftOut:  # too large for this machine; the session has noted it
            continue
        for base in BASES:
            for task, timings in found["optimized"].items() if base in found and "optimized" in found else ():
                ratio = timings.times_as_fast(found[base][task])
                compared += 1
                if ratio.high * SLACK[session.quick] < 1.0:
                    slower.append(
                        f"{row.workload}/{task}: {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times {base}"
                    )
    if not compared:
        pytest.skip(f"optimized beside {' or '.join(BASES)} in {scenario} is not part of this run")
    assert not slower, f"the default recipe is slower than plain code at {'; '.join(slower)}"
