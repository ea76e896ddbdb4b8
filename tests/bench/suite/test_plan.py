"""What the suite measures: plans, amounts, and what does not fit, said before it starts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bench.contenders import ABLATED, CONTENDERS, LADDER, find
from bench.contenders.gate import GateResult
from bench.suite.ablation import ANCHORS, KINDS, NOT_ABLATED, PROOF, effects, ladder, pair
from bench.suite.plan import ACCELERATOR, BASE, CPU, QUICK, plan_for
from bench.suite.scaling import AXES, CURVES, MIDDLE, points
from bench.suite.session import LeftOut, Session
from bench.timing.interleave import Timings, scenario_job
from bench.timing.peak_memory import Peak
from bench.timing.ratios import Ratio
from bench.timing.worker import Compiled
from bench.workloads.flops import generated_flops_per_token
from bench.workloads.scenarios import (
    SCENARIOS,
    WORKLOADS,
    flops_per_token,
    misfit,
    named,
    proof_misfit,
    rows_of,
    scenario_bytes,
    text_shape,
    tokens_of,
)
from bench.workloads.workload import Workload
from optimized import FULL, RUNGS
from optimized.hardware import Hardware


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


def test_a_task_has_the_tokens_and_operations_of_one_call() -> None:
    work = named("mini")
    assert tokens_of(work, "training", "training_step") == 4 * 128
    assert flops_per_token(work, "training_step") * 512 == work.step_flops()
    assert flops_per_token(work, "forward") * 512 == work.forward_flops()
    assert tokens_of(work, "text", "prefill") == 32
    assert tokens_of(work, "texts", "prefill") == 8 * 32
    assert tokens_of(work, "texts", "per_token") == rows_of(work, "texts", "per_token") == 8
    assert tokens_of(work, "ladder", "per_token") == 1
    assert tokens_of(work, "ladder", "training_step") == 4 * 128
    assert flops_per_token(work, "per_token") == generated_flops_per_token(work.config, 32, 32)


def test_what_does_not_fit_is_one_line_with_both_numbers() -> None:
    each = scenario_bytes(named("gpt2-xl"), "training")
    assert each > 16 * 1_557_611_200
    assert misfit("gpt2-xl", "training", 2, 2 * each) is None
    assert misfit("gpt2-xl", "training", 2, None) is None
    line = misfit("gpt2-xl", "training", 2, 2 * each - 1)
    assert line is not None
    assert line.startswith("gpt2-xl/training: needs about ")
    assert "for 2 processes side by side" in line
    assert line.endswith(" GB are free: left out")
    assert "\n" not in line
    assert proof_misfit("gpt2-xl", 10**10) is not None
    assert proof_misfit("smoke", 10**10) is None


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_more_of_anything_needs_more_memory(scenario: str) -> None:
    work = named("mini")
    assert scenario_bytes(replace(work, config=replace(work.config, n_embd=512)), scenario) > scenario_bytes(
        work, scenario
    )
    if scenario in ("forward", "training"):
        assert scenario_bytes(work.of_shape(8, 128), scenario) > scenario_bytes(work, scenario)


def session(available: int | None, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: available)
    return Session(torch.device("cpu"), plan_for("cpu", True, ("gpt2-xl", "smoke")), {}, lambda what: None, quick=True)


def test_a_workload_that_does_not_fit_is_left_out_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.suite.session.run_scenario", lambda *_: pytest.fail("it was started"))
    small = session(10**9, monkeypatch)
    for _ in range(2):  # and remembered
        with pytest.raises(LeftOut, match=r"^gpt2-xl: its proof in float64 needs about \d+\.\d GB of memory, 1.0 GB"):
            small.timings_of("gpt2-xl", "training", ("reference", "full"))
    assert len(small.left_out) == 1
    assert small.result()["left_out"] == small.left_out


def test_who_has_no_parity_pass_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    own = session(None, monkeypatch)
    monkeypatch.setattr("bench.suite.session.run_scenario", lambda work, scenario, names, *_: asked.extend(names) or {})
    monkeypatch.setattr(Session, "floors", [])
    own.gate.found["tiny", 8, 64, "reference"] = GateResult(True, {"float32": 0.3}, 1e-6, (8, 64), "")
    own.gate.found["tiny", 8, 64, "full"] = GateResult(False, {"float32": 300.0}, 1e-2, (8, 64), "logits: too far")
    own.timings_of("smoke", "forward", ("reference", "full"))
    assert asked == ["reference"]
    with pytest.raises(AssertionError, match=r"no parity pass, no number"):
        own.case("smoke", "forward", "forward", "full", made_up_timings())


def made_up_timings(seconds: float = 1.0, rounds: int = 3, **anchors: float) -> Timings:
    times = {anchor: Ratio(s / seconds, 0.9 * s / seconds, 1.2 * s / seconds) for anchor, s in anchors.items()}
    peak = Peak(1, 1, "resident")
    return Timings(
        [seconds] * rounds, [rounds], 2.0, Compiled(0, 0.0), 0, peak, times or {"reference": Ratio(1.0, 1.0, 1.0)}
    )


def test_a_failing_scenario_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own, tries = session(None, monkeypatch), []

    def fail(*_: object) -> None:
        tries.append(1)
        raise RuntimeError("timing full failed with status 9")

    monkeypatch.setattr(Session, "run_scenario", fail)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="timing full failed"):
            own.timings_of("smoke", "forward", ("reference", "full"))
    assert len(tries) == 1


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


def test_a_price_is_above_1_where_the_rung_pays_and_keeps_its_row_where_it_does_not() -> None:
    # PLAIN takes 4 s and the best 1 s; sdpa alone 2 s; the best without it 1.5 s; the ladder up to it 3 s
    seconds = {"plain": 4.0, "optimized": 1.0, "sdpa": 2.0, "without-sdpa": 1.5, "upto-sdpa": 3.0, "compile": 5.0}
    found = {name: {"forward": made_up_timings(s, plain=4.0, optimized=1.0)} for name, s in seconds.items()}
    effects_of = effects(found, "smoke", "forward", "sdpa", FULL)["forward"]
    assert [effects_of[kind]["ratio"]["median"] for kind in KINDS] == [2.0, 1.5, pytest.approx(4 / 3)]
    interval = {"low": pytest.approx(1.8), "high": pytest.approx(2.4), "confidence": 0.95}
    assert effects_of["alone"]["ratio"] == {"median": 2.0, **interval}
    assert effects_of["leave_one_out"]["ratio"]["low"] == pytest.approx(1.5 / 1.2)
    assert effects_of["leave_one_out"]["ratio"]["high"] == pytest.approx(1.5 / 0.9)
    assert [effects_of[kind]["contender"] for kind in KINDS] == ["sdpa", "without-sdpa", "upto-sdpa"]
    assert [effects_of[kind]["tokens_per_second"] for kind in KINDS] == [512 / 2.0, 512 / 1.5, 512 / 3.0]
    loses = effects(found, "smoke", "forward", "compile", FULL)["forward"]
    assert loses["alone"]["ratio"]["median"] == 0.8
    assert loses["leave_one_out"] is None, "that recipe has no parity pass"
    found["with-compile"] = {"forward": made_up_timings(2.0, plain=4.0, optimized=1.0)}
    added = effects(found, "smoke", "forward", "compile", FULL.without("compile"))["forward"]["leave_one_out"]
    assert added["contender"] == "with-compile", "the best recipe does without: it is added"
    assert added["ratio"]["median"] == 0.5


def test_a_price_is_a_ratio_to_the_anchor_that_sat_in_the_same_group() -> None:
    """In another group there were other rounds, at another time, and not even as many."""
    # The machine was twice as slow when sdpa ran beside PLAIN and the best: 8 s, 2 s, and 4 s for it.
    found = {
        "plain": {"forward": made_up_timings(4.0, rounds=5, plain=4.0, optimized=1.0)},
        "optimized": {"forward": made_up_timings(1.0, rounds=5, plain=4.0, optimized=1.0)},
        "sdpa": {"forward": made_up_timings(4.0, rounds=3, plain=8.0, optimized=2.0)},
        "without-sdpa": {"forward": made_up_timings(3.0, rounds=3, plain=8.0, optimized=2.0)},
    }
    effects_of = effects(found, "smoke", "forward", "sdpa", FULL)["forward"]
    assert effects_of["alone"]["ratio"]["median"] == 2.0
    assert effects_of["leave_one_out"]["ratio"]["median"] == 1.5


def test_every_point_of_a_curve_is_measured_once_and_one_that_does_not_fit_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, held = session(10**10, monkeypatch), []

    def run_scenario(
        work: Workload, scenario: str, names: list[str], *rest: object, keep: object
    ) -> dict[str, dict[str, Timings]]:
        held.append(work)
        return {name: {"training_step": made_up_timings()} for name in names}

    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    passed = GateResult(True, {"float32": 0.5}, 1e-6, (2, 128), "")
    monkeypatch.setattr(own.gate, "of", lambda work, names, texts: dict.fromkeys(names, passed))
    for point in points():
        own.point(point)
    assert len(held) == len(set(held)) == len({point.work for point in points()})
    assert len(own.scaling) == len(CURVES) * len(list(points()))
    assert json.loads(json.dumps(own.result()["scaling"])) == own.result()["scaling"]
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: 10**9)
    own.point(next(points()))
    assert own.left_out[0].startswith("scaling/time 64: needs about ")


def test_the_recipes_of_the_ladder_are_what_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import optimized

    built: list[optimized.Recipe] = []
    monkeypatch.setattr(optimized, "build", lambda config, recipe, *rest: built.append(recipe))

    config, cpu = named("mini").config, torch.device("cpu")

    def recipe(name: str) -> set[str]:
        contender = find(name)
        build = contender.build_bfloat16 if contender.rounds(config, cpu) else contender.build
        assert build is not None
        build(config, None, cpu, torch.float32)
        return set(built.pop().rungs)

    for bfloat16 in (True, False):
        monkeypatch.setattr("optimized.recipe.hardware_of", lambda device, found=bfloat16: machine(found))
        best = set(optimized.best("cpu", "float32", config).rungs)
        assert ("bf16" in best) == bfloat16
        for rung in ABLATED:
            assert recipe(f"without-{rung}") == best - {rung}
            assert recipe(f"with-{rung}") == best | {rung}
            order = list(RUNGS)
            assert recipe(f"upto-{rung}") == {r for r in best if order.index(r) < order.index(rung)} | {rung}
            assert recipe(rung) == {rung}
        assert recipe("full") == set(FULL.rungs)
        assert recipe("optimized") == best
        assert best - recipe(f"upto-{ABLATED[-1]}") == {"ddp"}, "the last of the ladder is the best on one process"


def machine(bfloat16: bool) -> Hardware:
    return Hardware("cpu", bfloat16, compiler=True, keeps_memory=True)


def test_the_curves_cross_in_the_middle_and_change_one_size_each() -> None:
    assert {point.axis for point in points()} == set(AXES) == {"time", "batch", "depth", "width", "vocabulary"}
    assert set(CURVES) == {"plain", "sdpa", "fused_loss"}
    for axis, values in AXES.items():
        assert len(values) >= 3
        assert max(values) >= 8 * min(values), "a curve has to go somewhere"
        assert list(values) == sorted(set(values))
        works = [point.work for point in points() if point.axis == axis]
        assert MIDDLE in works, f"{axis} does not go through the middle"
    sizes = {point.work.size for point in points()}
    assert len(sizes) == len({point.work for point in points()}), "each is called by a name of its own"


def test_what_has_no_price_or_is_not_in_the_plan_says_why() -> None:
    assert {*ABLATED, *NOT_ABLATED} == set(RUNGS)
    assert not set(ABLATED) & set(NOT_ABLATED)
    assert any(line.startswith("gpt2 and gpt2-xl at 1,024 tokens: ") for line in plan_for("cpu", False).left_out)
    assert plan_for("cpu", False, ("gpt2",)).left_out == (), "who chooses knows what is left out"


def test_the_ladder_writes_fewer_tokens() -> None:
    work = named("mini-64")
    assert text_shape(work) == (32, 32)
    assert text_shape(work, "ladder") == prompt_and_new(work) == (32, 12)


def prompt_and_new(work: Workload) -> tuple[int, int]:
    job = scenario_job("plain", work, "ladder", torch.device("cpu"), again=False)
    return job.prompt, job.new


def test_the_logits_of_the_whole_batch_count_in_the_memory_of_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof's gradients are of a smaller batch than its logits."""
    work = named("gpt2-512")
    small = work.of_shape(*work.proof_shape())
    assert small.tokens < work.tokens
    logits = 8 * (work.tokens - small.tokens) * work.config.vocab_size
    monkeypatch.setattr("bench.workloads.scenarios.needed_bytes", lambda *_: 0)
    assert proof_misfit("gpt2-512", logits) is not None


def test_a_scenario_is_proven_at_its_own_shape_is__by_its_launches__and_reads_the_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, proven, held = session(None, monkeypatch), [], []

    def of(work: Workload, names: list[str], texts: bool = True) -> dict[str, GateResult]:
        proven.append(work)
        return dict.fromkeys(names, GateResult(True, {"float32": 0.3}, 1e-6, (work.batch, work.time), ""))

    def run_scenario(*arguments: object) -> dict[str, dict[str, Timings]]:
        held.append(arguments[-2])
        return {}

    monkeypatch.setattr(own.gate, "of", of)
    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    monkeypatch.setattr("bench.suite.session.clocks_after_work", lambda found, device: {**found, "read": len(held)})
    for launches in (1, 3, 3):
        own.timings_of("mini-64", "step", ("reference",), launches=launches)
    assert held == [1, 3], "once each"
    assert {(work.batch, work.time) for work in proven} == {(2, 64)}
    assert own.environment["clocks"]["read"] == 2
    own.timings_of("mini-64", "step", ("plain",), proof=PROOF)
    assert PROOF in proven
