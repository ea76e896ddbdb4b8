"""The plans of the suite, and what they leave out."""

from __future__ import annotations

import pytest

from bench.contenders import ABLATED, CONTENDERS
from bench.suite.ablation import NOT_ABLATED
from bench.suite.plan import ACCELERATOR, BASE, CPU, QUICK, plan_for
from bench.workloads.scenarios import (
    SCENARIOS,
    WORKLOADS,
    named,
)
from optimized import RUNGS


def test_the_workloads_go_from_smoke_to_gpt2_at_1024_tokens_and_gpt2_xl() -> None:
    assert next(iter(WORKLOADS)) == "smoke"
    assert named("gpt2").config.n_embd == 768
    assert named("gpt2").time == 1024
    assert named("gpt2-xl").config.n_embd == 1600
    every = {row.workload for plan in (QUICK, CPU, ACCELERATOR) for row in plan.rows}
    assert every == set(WORKLOADS)


@pytest.mark.parametrize("plan", [QUICK, CPU, ACCELERATOR])
def test_every_row_has_the_base_first_and_names_that_exist(plan: object) -> None:
    assert plan is not None
    for row in plan.rows:  # type: ignore[attr-defined]
        assert row.contenders[0] == BASE
        assert set(row.contenders) <= set(CONTENDERS)
        assert set(row.scenarios) <= set(SCENARIOS)


def test_a_plan_is_narrowed_by_name_and_keeps_the_base() -> None:
    plan = plan_for("cpu", False, ("mini", "gpt2-xl"), ("full",))
    assert [(row.workload, row.contenders) for row in plan.rows] == [
        ("mini", ("reference", "full")),
        ("gpt2-xl", ("reference", "full")),
    ]
    assert plan_for("cpu", True) == QUICK
    assert plan_for("cuda", False) == ACCELERATOR
    with pytest.raises(ValueError, match=r"^unknown workload 'gpt9': give some of smoke, mini-64, mini, "):
        plan_for("cpu", False, ("gpt9",))


def test_rungs_and_workloads_that_are_left_out_have_a_reason() -> None:
    assert {*ABLATED, *NOT_ABLATED} == set(RUNGS)
    assert not set(ABLATED) & set(NOT_ABLATED)
    assert any(line.startswith("gpt2 and gpt2-xl at 1,024 tokens: ") for line in plan_for("cpu", False).left_out)
    assert plan_for("cpu", False, ("gpt2",)).left_out == (), "a user who names workloads needs no list"
