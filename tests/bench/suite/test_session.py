"""A session starts nothing that is unproven or too large, and measures everything once."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contenders.gate import GateResult
from bench.journal import Journal
from bench.suite.aa import run_aa_test
from bench.suite.ablation import PROOF
from bench.suite.cases import add_case
from bench.suite.ceilings import Ceilings
from bench.suite.plan import plan_for
from bench.suite.scaling import CURVES, measure, points
from bench.suite.session import LeftOut, Session
from bench.timing.interleave import Progress, TimeBudget, Timings
from bench.workloads.scenarios import named
from bench.workloads.workload import Workload
from tests.bench.suite.made_up import ENVIRONMENT, made_up_timings

CPU = torch.device("cpu")


def session(available: int | None, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: available)
    plan, here = plan_for("cpu", True, ("gpt2-xl", "smoke")), copy.deepcopy(ENVIRONMENT)
    journal = Journal(Path("never-written"), "suite", "", here, {}, kept=False)
    return Session(CPU, plan, {}, here, Progress(lambda what: None), journal, quick=True)


def test_a_workload_that_does_not_fit_is_left_out_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.suite.session.run_scenario", lambda *_: pytest.fail("it was started"))
    small = session(10**9, monkeypatch)
    for _ in range(2):  # and remembered
        with pytest.raises(LeftOut, match=r"^gpt2-xl: its proof in float64 needs about \d+\.\d GB of memory, 1.0 GB"):
            small.timings_of(named("gpt2-xl"), "training", ("reference", "full"))
    assert len(small.left_out) == 1
    assert small.result()["left_out"] == small.left_out


def test_memory_is_asked_for_once_as_a_proof_leaves_less_free(monkeypatch: pytest.MonkeyPatch) -> None:
    own = session(10**12, monkeypatch)
    own.check_memory(named("gpt2"), "training", 2, named("gpt2"))
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: 0)
    own.check_memory(named("gpt2"), "training", 2, named("gpt2"))
    with pytest.raises(LeftOut, match=r"^gpt2/training: needs about \d+\.\d GB of memory for 1 processes"):
        own.check_memory(named("gpt2"), "training")


def test_a_contender_without_a_parity_pass_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    own = session(None, monkeypatch)
    monkeypatch.setattr("bench.suite.session.run_scenario", lambda work, scenario, names, *_: asked.extend(names) or {})
    monkeypatch.setattr(Ceilings, "floors", [])
    own.gate.found["tiny", 8, 64, "reference"] = GateResult(True, {"float32": 0.3}, 1e-6, (8, 64), "")
    own.gate.found["tiny", 8, 64, "full"] = GateResult(False, {"float32": 300.0}, 1e-2, (8, 64), "logits: too far")
    own.timings_of(named("smoke"), "forward", ("reference", "full"))
    assert asked == ["reference"]
    with pytest.raises(AssertionError, match=r"no parity pass, no number"):
        add_case(own, named("smoke"), "forward", "forward", "full", made_up_timings())


def test_a_failing_scenario_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own, tries = session(None, monkeypatch), []

    def fail(*_: object) -> None:
        tries.append(1)
        raise RuntimeError("timing full failed with status 9")

    passed = GateResult(True, {"float32": 0.3}, 1e-6, (8, 64), "")
    monkeypatch.setattr(own.gate, "of", lambda work, names, texts: dict.fromkeys(names, passed))
    monkeypatch.setattr(Ceilings, "floors", [])
    monkeypatch.setattr("bench.suite.session.run_scenario", fail)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="timing full failed"):
            own.timings_of(named("smoke"), "forward", ("reference", "full"))
    assert len(tries) == 1


def test_every_point_of_a_curve_is_measured_once_and_one_that_does_not_fit_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, run = session(10**10, monkeypatch), []

    def run_scenario(work: Workload, scenario: str, names: list[str], *rest: object) -> dict[str, dict[str, Timings]]:
        run.append(work)
        return {name: {"training_step": made_up_timings()} for name in names}

    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    passed = GateResult(True, {"float32": 0.5}, 1e-6, (2, 128), "")
    monkeypatch.setattr(own.gate, "of", lambda work, names, texts: dict.fromkeys(names, passed))
    for point in points():
        assert list(measure(own, point)) == list(CURVES)
    assert len(run) == len(set(run)) == len({point.work for point in points()})
    assert len(own.scaling) == len(CURVES) * len(list(points()))
    assert json.loads(json.dumps(own.result()["scaling"])) == own.result()["scaling"]
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: 10**9)
    own.misfits.clear()
    own.timings.clear()
    assert measure(own, next(points())) == {}
    assert own.left_out[0].startswith("scaling-time-64/step: needs about ")


def test_a_scenario_is_proven_at_its_own_shape_and_measured_once_per_number_of_launches_and_reads_the_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, proven, run = session(None, monkeypatch), [], []

    def of(work: Workload, names: list[str], texts: bool = True) -> dict[str, GateResult]:
        proven.append(work)
        return dict.fromkeys(names, GateResult(True, {"float32": 0.3}, 1e-6, (work.batch, work.time), ""))

    def run_scenario(*arguments: object) -> dict[str, dict[str, Timings]]:
        run.append(arguments[8])
        return {}

    monkeypatch.setattr(own.gate, "of", of)
    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    monkeypatch.setattr("bench.suite.session.clocks_after_work", lambda found, device: {**found, "read": len(run)})
    for launches in (1, 3, 3):
        own.timings_of(named("mini-64"), "step", ("reference",), launches=launches)
    assert run == [1, 3], "once each"
    assert {(work.batch, work.time) for work in proven} == {(2, 64)}
    assert own.environment["clocks"]["read"] == 2
    own.timings_of(named("mini-64"), "step", ("plain",), proof=PROOF)
    assert PROOF in proven


def test_a_contender_against_a_second_copy_of_it_is_timed_in_three_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    own, asked = session(None, monkeypatch), []
    launched = replace(made_up_timings(), seconds=[1.0] * 3 + [2.0] * 3 + [4.0] * 3, rounds=[3, 3, 3])

    def run_scenario(*arguments: Any) -> dict[str, dict[str, Timings]]:
        asked.append((arguments[2], arguments[4], arguments[8]))
        return {name: {"forward": launched} for name in ("reference", "reference (again)")}

    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    monkeypatch.setattr(Ceilings, "floors", [])
    passed = GateResult(True, {"float32": 0.3}, 1e-6, (8, 64), "")
    monkeypatch.setattr(own.gate, "of", lambda work, names, texts: dict.fromkeys(names, passed))
    found = run_aa_test(own, "smoke", "forward", "reference", least=9, most=51)
    assert asked == [(["reference", "reference"], {"forward": TimeBudget(3 * own.plan.seconds, 27, 153)}, 3)]
    assert (found.median, found.confidence) == (1.0, 0.75)
    assert own.aa_test is not None
    assert len(own.aa_test["launches"]) == 3
    monkeypatch.setattr(own.gate, "of", lambda work, names, texts: dict.fromkeys(names, replace(passed, passed=False)))
    own.timings.clear()
    with pytest.raises(LeftOut, match=r"^smoke/forward: reference has no parity pass$"):
        run_aa_test(own, "smoke", "forward", "reference", least=9, most=51)
