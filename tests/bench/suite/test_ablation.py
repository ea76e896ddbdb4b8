"""The ablation of every rung: its recipes and its three ratios."""

from __future__ import annotations

import pytest

from bench.contenders import ABLATED, LADDER, find
from bench.suite.ablation import ANCHORS, KINDS, effects, ladder, pair
from bench.workloads.scenarios import named
from optimized import FULL
from tests.bench.suite.made_up import made_up_timings


def test_every_rung_that_can_be_timed_is_ablated_in_three_ways_by_recipes_that_exist() -> None:
    assert set(ABLATED) == set(FULL.rungs) - {"ddp"}
    for rung in ABLATED:
        for kind in KINDS:
            for best in (FULL, FULL.without("bf16", "padded_vocab")):
                slower, faster = pair(rung, kind, best)
                assert slower != faster
                assert {slower, faster} <= set(ladder(best))
                assert find(slower)
                assert find(faster)
    assert ladder(FULL)[:2] == ANCHORS
    assert len(set(ladder(FULL))) == len(ladder(FULL))
    assert set(LADDER) >= {f"without-{rung}" for rung in ABLATED}
    assert not any(name.startswith("with-") for name in ladder(FULL)), "it has them all"
    assert [name for name in ladder(FULL.without("bf16")) if name.startswith("with-")] == ["with-bf16"]


def test_a_ratio_is_above_1_if_the_rung_pays_and_a_rung_that_does_not_pay_keeps_its_row() -> None:
    # PLAIN takes 4 s and the best 1 s; sdpa alone 2 s; the best without it 1.5 s; the ladder up to it 3 s
    seconds = {"plain": 4.0, "optimized": 1.0, "sdpa": 2.0, "without-sdpa": 1.5, "upto-sdpa": 3.0, "compile": 5.0}
    found = {name: {"forward": made_up_timings(s, plain=4.0, optimized=1.0)} for name, s in seconds.items()}
    effects_of = effects(found, named("smoke"), "forward", "sdpa", FULL)["forward"]
    assert [effects_of[kind]["ratio"]["median"] for kind in KINDS] == [2.0, 1.5, pytest.approx(4 / 3)]
    interval = {"low": pytest.approx(1.8), "high": pytest.approx(2.4), "confidence": 0.95}
    assert effects_of["alone"]["ratio"] == {"median": 2.0, **interval}
    assert effects_of["leave_one_out"]["ratio"]["low"] == pytest.approx(1.5 / 1.2)
    assert effects_of["leave_one_out"]["ratio"]["high"] == pytest.approx(1.5 / 0.9)
    assert [effects_of[kind]["contender"] for kind in KINDS] == ["sdpa", "without-sdpa", "upto-sdpa"]
    assert [effects_of[kind]["tokens_per_second"] for kind in KINDS] == [512 / 2.0, 512 / 1.5, 512 / 3.0]
    loses = effects(found, named("smoke"), "forward", "compile", FULL)["forward"]
    assert loses["alone"]["ratio"]["median"] == 0.8
    assert loses["leave_one_out"] is None, "that recipe has no parity pass"
    found["with-compile"] = {"forward": made_up_timings(2.0, plain=4.0, optimized=1.0)}
    added = effects(found, named("smoke"), "forward", "compile", FULL.without("compile"))["forward"]["leave_one_out"]
    assert added["contender"] == "with-compile", "the best recipe does without: it is added"
    assert added["ratio"]["median"] == 0.5


def test_a_ratio_is_to_the_anchor_in_the_same_group() -> None:
    """Another group has other rounds, maybe another number of them."""
    # The machine was twice as slow when sdpa ran beside PLAIN and the best: 8 s, 2 s, and 4 s for it.
    found = {
        "plain": {"forward": made_up_timings(4.0, rounds=5, plain=4.0, optimized=1.0)},
        "optimized": {"forward": made_up_timings(1.0, rounds=5, plain=4.0, optimized=1.0)},
        "sdpa": {"forward": made_up_timings(4.0, rounds=3, plain=8.0, optimized=2.0)},
        "without-sdpa": {"forward": made_up_timings(3.0, rounds=3, plain=8.0, optimized=2.0)},
    }
    effects_of = effects(found, named("smoke"), "forward", "sdpa", FULL)["forward"]
    assert effects_of["alone"]["ratio"]["median"] == 2.0
    assert effects_of["leave_one_out"]["ratio"]["median"] == 1.5
