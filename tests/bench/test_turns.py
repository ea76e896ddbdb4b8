"""A sitting: in turn, warm, with what a token costs, and with compiling noticed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from bench import turns
from bench.peak import Peak
from bench.suite import named
from bench.turns import Pace, hold, sit
from bench.workers import Compiled

CPU = torch.device("cpu")
PACE = Pace(seconds=1.0, least=3, most=5)


@dataclass
class Made:
    """In place of a worker: takes so long for each task, and longer the first time."""

    name: str
    log: list[str]
    seconds: dict[str, float]
    compiles_at: tuple[int, ...] = (0,)  # which of its calls make a graph
    new: int = 5
    done: int = 0
    held: list[int] = field(default_factory=list)

    def time(self, task: str, calls: int = 1) -> float:
        self.log.append(f"{self.name} {task}" + (f" x {calls}" if calls > 1 else ""))
        self.done += 1
        return self.seconds[task] + (9.0 if self.done == 1 else 0.0)

    def compiled(self) -> Compiled:
        return Compiled(sum(at < self.done for at in self.compiles_at), 0.5)

    def peak(self) -> Peak:
        self.held.append(self.done)
        return Peak(100, 10, "resident")


def tell(_: str) -> None:
    pass


def test_all_take_turns_after_two_calls_that_are_not_counted() -> None:
    log: list[str] = []
    workers: Any = {name: Made(name, log, {"forward": seconds}) for name, seconds in (("a", 1.0), ("b", 0.5))}
    found = hold(workers, "forward", PACE, tell)
    assert log == ["a forward", "b forward"] * (2 + 3)
    assert found["a"].seconds == [1.0] * 3
    assert found["a"].first == 10.0
    assert found["b"].ratios["a"].median == 2.0, "b is twice as fast as a"
    assert found["a"].ratios["a"].median == 1.0
    assert found["a"].compiled.graphs == 1
    assert found["a"].recompiled == 0


def test_a_graph_that_is_made_during_the_rounds_is_noticed() -> None:
    workers: Any = {"a": Made("a", [], {"forward": 1.0}, compiles_at=(0, 3))}
    assert hold(workers, "forward", PACE, tell)["a"].recompiled == 1


def test_a_token_costs_what_more_tokens_take_longer_than_one() -> None:
    workers: Any = {"a": Made("a", [], {"prefill": 2.0, "generation": 4.0}, new=5)}
    assert hold(workers, "per_token", PACE, tell)["a"].seconds == [0.5] * 3
    assert hold(workers, "prefill", PACE, tell)["a"].seconds == [2.0] * 3


def test_what_is_shorter_than_a_time_slice_is_done_several_times_by_all() -> None:
    log: list[str] = []
    workers: Any = {"a": Made("a", log, {"forward": 0.010}), "b": Made("b", log, {"forward": 0.003})}
    hold(workers, "forward", PACE, tell)
    assert log[4:6] == ["a forward x 10", "b forward x 10"]


def test_memory_is_read_before_the_next_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Made] = {}

    class Crew:
        def __init__(self, jobs: Any) -> None:
            made.update({j.label or j.name: Made(j.label or j.name, [], {**SECONDS}) for j in jobs})

        def __enter__(self) -> Any:
            return made

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(turns, "crew", Crew)
    found = sit(named("smoke"), "training", ["reference", "full", "reference"], CPU, PACE, tell)
    assert list(found) == ["reference", "full", "reference (again)"]
    assert list(found["full"]) == ["loss_and_gradient", "training_step"]
    assert made["full"].held == [2, 7], "after two calls of the first task, and after two of the second"


SECONDS = {"forward": 1.0, "loss_and_gradient": 1.0, "training_step": 2.0, "prefill": 1.0, "generation": 2.0}


def test_where_not_all_fit_they_come_in_groups_with_the_anchors_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []

    class Crew:
        def __init__(self, jobs: Any) -> None:
            self.names = [j.name for j in jobs]
            groups.append(self.names)

        def __enter__(self) -> Any:
            return {name: Made(name, [], {**SECONDS}) for name in self.names}

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(turns, "crew", Crew)
    monkeypatch.setattr(turns, "sitting_bytes", lambda work, sitting: 10)
    names = ["plain", "full", "sdpa", "bf16", "compile"]
    found = sit(named("smoke"), "forward", names, CPU, PACE, tell, free=45, anchors=2)
    assert groups == [["plain", "full", "sdpa", "bf16"], ["plain", "full", "compile"]]
    assert set(found) == set(names)
    assert set(found["compile"]["forward"].ratios) == {"plain", "full"}
