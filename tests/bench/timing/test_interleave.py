"""A scenario is timed in turn and warm; seconds per token; compiling during the rounds is noticed."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from bench.timing import interleave
from bench.timing.interleave import (
    Progress,
    TimeBudget,
    Timings,
    drop_preempted,
    joined,
    run_scenario,
    time_task,
)
from bench.timing.peak_memory import Peak
from bench.timing.worker import Compiled, job
from bench.workloads.scenarios import named

CPU = torch.device("cpu")
TIME_BUDGET = TimeBudget(seconds=1.0, least=3, most=5)
TIME_BUDGETS = defaultdict(lambda: TIME_BUDGET)


@dataclass
class Made:
    """A fake worker: each task takes fixed seconds, the first call 9 s more."""

    name: str
    log: list[str]
    seconds: dict[str, float]
    compiles_at: tuple[int, ...] = (0,)  # numbers of the calls that compile a graph
    new: int = 5
    done: int = 0
    calls_at_peak: list[int] = field(default_factory=list)
    asked: str = ""

    def time(self, task: str, calls: int = 1) -> float:
        self.log.append(f"{self.name} {task}" + (f" x {calls}" if calls > 1 else ""))
        self.done += 1
        return self.seconds[task] + (9.0 if self.done == 1 else 0.0)

    def send(self, what: str) -> None:
        self.log.append(f"{self.name} is sent {what}")
        self.asked = what

    def answer(self) -> dict[str, float]:
        self.log.append(f"{self.name} answers")
        self.done += 1
        return {"seconds": self.seconds[self.asked]}

    def compiled(self) -> Compiled:
        return Compiled(sum(at < self.done for at in self.compiles_at), 0.5)

    def peak(self) -> Peak:
        self.calls_at_peak.append(self.done)
        return Peak(100, 10, "resident")


def tell(_: str) -> None:
    pass


PROGRESS = Progress(tell)


def test_all_run_in_turn_after_a_first_call_that_is_not_counted() -> None:
    log: list[str] = []
    workers: Any = {name: Made(name, log, {"forward": seconds}) for name, seconds in (("a", 1.0), ("b", 0.5))}
    found = time_task(workers, "forward", TIME_BUDGET, PROGRESS)
    assert log == ["a forward", "b forward"] * (1 + 3)
    assert found["a"].seconds == [1.0] * 3
    assert found["a"].first == 10.0
    assert found["a"].rounds == [3]
    assert found["b"].times_as_fast(found["a"]).median == 2.0, "b is twice as fast as a"
    assert found["a"].times_as_fast(found["a"]).median == 1.0
    assert found["a"].compiled.graphs == 1
    assert found["a"].recompiled == 0


def test_a_second_call_that_compiles_is_not_counted_either() -> None:
    log: list[str] = []
    workers: Any = {"a": Made("a", log, {"forward": 1.0}), "b": Made("b", log, {"forward": 1.0}, compiles_at=(0, 1))}
    found = time_task(workers, "forward", TIME_BUDGET, PROGRESS)
    assert log == ["a forward", "b forward"] * (2 + 3)
    assert (found["b"].compiled.graphs, found["b"].recompiled) == (2, 0)


def test_first_calls_that_will_not_be_shown_run_all_at_once() -> None:
    log: list[str] = []
    workers: Any = {name: Made(name, log, {"forward": 1.0}) for name in ("a", "b")}
    time_task(workers, "forward", TIME_BUDGET, PROGRESS, cold=False)
    assert log[:4] == ["a is sent forward", "b is sent forward", "a answers", "b answers"]
    assert log[4:] == ["a forward", "b forward"] * 3


def test_a_graph_compiled_during_the_rounds_is_noticed() -> None:
    workers: Any = {"a": Made("a", [], {"forward": 1.0}, compiles_at=(0, 3))}
    assert time_task(workers, "forward", TIME_BUDGET, PROGRESS)["a"].recompiled == 1


def test_seconds_per_token_are_the_extra_time_of_further_tokens_by_their_number() -> None:
    workers: Any = {"a": Made("a", [], {"prefill": 2.0, "generation": 4.0}, new=5)}
    assert time_task(workers, "per_token", TIME_BUDGET, PROGRESS)["a"].seconds == [0.5] * 3
    assert time_task(workers, "prefill", TIME_BUDGET, PROGRESS)["a"].seconds == [2.0] * 3


def test_a_round_where_n_tokens_were_no_slower_than_one_is_dropped_for_all() -> None:
    seconds = {"a": [0.1, -0.2, 0.3], "b": [0.4, 0.5, 0.6]}
    assert drop_preempted(seconds, "per_token") == ({"a": [0.1, 0.3], "b": [0.4, 0.6]}, 2)
    with pytest.raises(RuntimeError, match=r"^per_token: in none of 1 rounds did more tokens take longer than one"):
        drop_preempted({"a": [0.1], "b": [0.0]}, "per_token")


def test_a_call_shorter_than_a_time_slice_is_repeated_by_all() -> None:
    log: list[str] = []
    workers: Any = {"a": Made("a", log, {"forward": 0.010}), "b": Made("b", log, {"forward": 0.003})}
    time_task(workers, "forward", TIME_BUDGET, PROGRESS)
    assert log[:4] == ["a forward", "b forward"] * 2, "single calls, which are no samples"
    assert log[4:] == ["a forward x 10", "b forward x 10"] * TIME_BUDGET.most


def test_memory_is_read_before_the_next_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Made] = {}

    class Crew:
        def __init__(self, jobs: Any) -> None:
            made.update({j.label: Made(j.label, [], {**SECONDS}) for j in jobs})

        def __enter__(self) -> Any:
            return made

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(interleave, "crew", Crew)
    found = run_scenario(named("smoke"), "training", ["reference", "full", "reference"], CPU, TIME_BUDGETS, PROGRESS)
    assert list(found) == ["reference", "full", "reference (again)"]
    assert list(found["full"]) == ["forward", "loss_and_gradient", "training_step"]
    assert made["full"].calls_at_peak == [2, 6, 10], "after two calls of each task, before its rounds"


SECONDS = {"forward": 1.0, "loss_and_gradient": 1.0, "training_step": 2.0, "prefill": 1.0, "generation": 2.0}


def test_contenders_that_do_not_fit_together_run_in_groups_with_the_anchors_in_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[list[str]] = []

    class Crew:
        def __init__(self, jobs: Any) -> None:
            self.names = [j.name for j in jobs]
            groups.append(self.names)

        def __enter__(self) -> Any:
            return {name: Made(name, [], {**SECONDS}) for name in self.names}

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(interleave, "crew", Crew)
    monkeypatch.setattr(interleave, "scenario_bytes", lambda work, scenario, precision: 10)
    names = ["plain", "full", "sdpa", "bf16", "compile"]
    found = run_scenario(named("smoke"), "forward", names, CPU, TIME_BUDGETS, PROGRESS, free=45, anchors=2)
    assert groups == [["plain", "full", "sdpa", "bf16"], ["plain", "full", "compile"]]
    assert set(found) == set(names)
    assert set(found["compile"]["forward"].ratios) == {"plain", "full"}


def test_the_last_task_has_launches_in_other_orders_and_its_interval_includes_their_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders: list[list[str]] = []
    made: list[dict[str, Made]] = []
    said: list[str] = []
    # b takes 1 s in the first launch, then 2 s, then 4 s, and never differs within one
    its_seconds = iter((1.0, 2.0, 4.0))

    class Crew:
        def __init__(self, jobs: Any) -> None:
            names = [j.name for j in jobs]
            orders.append(names)
            own = {name: {**SECONDS, "training_step": 4.0} for name in names}
            own["full"]["training_step"] = next(its_seconds)
            made.append({name: Made(name, [], own[name], compiles_at=()) for name in names})

        def __enter__(self) -> Any:
            return made[-1]

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(interleave, "crew", Crew)
    names = ["reference", "huggingface-sdpa", "full", "full-float32"]
    found = run_scenario(named("smoke"), "training", names, CPU, TIME_BUDGETS, Progress(said.append), launches=3)
    assert list(found) == names, "in the given order"
    assert orders[0] == names
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({tuple(order) for order in orders}) == 3, "each launch has another order"
    assert found["full"]["loss_and_gradient"].rounds == [3], "only the last task is launched again"
    assert [launch["full"].done for launch in made] == [2 * (1 + 3) + 1 + 1, 1 + 1, 1 + 1]
    again = found["full"]["training_step"]
    assert (again.seconds, again.rounds) == ([1.0, 2.0, 4.0], [1, 1, 1])
    assert replace(again, rounds=[2, 1]).by_launch() == [[1.0, 2.0], [4.0]]
    times = again.ratios["reference"]
    assert (times.low, times.median, times.high) == (1.0, 2.0, 4.0), "one launch alone would have had no width"
    assert [line for line in said if line.startswith("launch ")][1] == (
        "launch 2 of 3: reference, huggingface-sdpa, full, full-float32"
    )


def test_the_timings_of_several_launches_are_joined() -> None:
    def launch(seconds: float, bytes_held: int, recompiled: int) -> dict[str, Timings]:
        ours = Timings(
            [seconds] * 2, [2], seconds, Compiled(1, seconds), recompiled, Peak(bytes_held, 5, "resident"), {}
        )
        return {"a": ours, "b": replace(ours, seconds=[1.0] * 2)}

    whole = joined([launch(2.0, 30, 0), launch(3.0, 50, 1)], "a", ["b"])
    assert whole.memory.bytes == 50, "the highest"
    assert whole.recompiled == 1, "in any of them"
    assert (whole.first, whole.compiled.seconds) == (2.0, 2.0), "of the first launch, which began cold"
    assert whole.ratios["b"].median == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_the_ratio_of_several_launches_is_the_median_of_their_medians_with_a_confidence_by_their_number() -> None:
    anchor = Timings([1.0] * 7, [5, 1, 1], 1.0, Compiled(0, 0.0), 0, Peak(1, 1, "resident"), {})
    ours = replace(anchor, seconds=[1.0] * 5 + [0.25, 0.125])
    found = ours.times_as_fast(anchor)
    assert found.median == 4.0, "one launch of three, although five rounds of seven were of another"
    assert found.confidence == 0.75
    assert replace(ours, rounds=[7]).times_as_fast(replace(anchor, rounds=[7])).median == 1.0


@pytest.mark.parametrize(("scenario", "launches", "alone"), [("step", 1, [True]), ("step", 2, [True, False])])
def test_first_calls_are_made_alone_where_they_will_be_shown(
    scenario: str, launches: int, alone: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_calls_alone(scenario, launches, monkeypatch) == alone
    assert first_calls_alone("ladder", 1, monkeypatch) == [False, False], "the first calls of the ladder are not shown"


def first_calls_alone(scenario: str, launches: int, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether first calls ran in turn, for each timed task."""
    seen: list[bool] = []
    timings_of_one = Timings([1.0], [1], 1.0, Compiled(0, 0.0), 0, Peak(1, 1, "resident"), {})

    def time_task(workers: Any, task: str, time_budget: TimeBudget, progress: Any, cold: bool) -> dict[str, Timings]:
        seen.append(cold)
        return {"reference": timings_of_one}

    monkeypatch.setattr(interleave, "time_task", time_task)
    monkeypatch.setattr(interleave, "crew", lambda jobs: nullcontext({}))
    run_scenario(named("smoke"), scenario, ["reference"], CPU, TIME_BUDGETS, PROGRESS, launches=launches)
    return seen


def test_a_job_has_the_texts_of_its_scenario() -> None:
    found = [job("plain", named("mini-64"), scenario, "float32", CPU) for scenario in ("ladder", "texts")]
    assert [(one.prompt, one.new, one.rows) for one in found] == [(32, 12, 1), (32, 32, 8)]
    assert job("plain", named("mini-64"), "text", "float32", CPU, again=True).label == "plain (again)"


TASKS = {"forward": 5, "training_step": 4, "generation": 3}  # rounds


def test_each_task_has_its_own_time_budget_and_a_text_is_timed_with_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made("reference", [], {**SECONDS})
    monkeypatch.setattr(interleave, "crew", lambda jobs: nullcontext({"reference": made}))
    budgets = {task: TimeBudget(1.0, least, least) for task, least in TASKS.items()}
    work = replace(named("smoke"), new=5)
    found = run_scenario(work, "compare", ["reference"], CPU, budgets, PROGRESS)["reference"]
    assert {task: one.rounds for task, one in found.items()} == {task: [least] for task, least in TASKS.items()}
    assert found["generation"].seconds == [SECONDS["generation"]] * 3, "of a whole text"
