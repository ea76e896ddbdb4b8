"""Components of a group are proven, then timed in turn in a fresh process, with short calls repeated in a sample."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.suite import component_timing, components
from bench.suite.component_timing import Outcome, in_turn, measure, outcomes, peaks_of, time_group
from bench.suite.components import ALLOWED, COMPONENTS, Component, Prepared
from bench.timing.fresh_process import Call
from bench.timing.peak_memory import Peak
from bench.workloads.scenarios import named

CPU = torch.device("cpu")


class Clock:
    """A clock that fake work advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, first: float = 0.0) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds + (first if name not in self.log else 0.0)
            self.log.append(name)

        return call


def toy(name: str, error: float = 0.0, missing: str = "", called: list[str] | None = None) -> Component:
    """A component that does nothing."""

    def prepare(*_: Any) -> Prepared:
        if missing:
            raise ValueError(f"there is no {missing} here")
        return Prepared(lambda: called is not None and called.append(name), 10, lambda: error)

    return Component(name, "toys", "", "pieces", prepare)


def timed(monkeypatch: pytest.MonkeyPatch, *toys: Component, with_memory: bool = False) -> dict[str, Any]:
    monkeypatch.setattr(component_timing, "COMPONENTS", {one.name: one for one in toys})
    where = {"workload": "smoke", "device": "cpu", "threads": torch.get_num_threads()}
    return time_group({**where, "group": "toys", "seconds": 0.01, "with_memory": with_memory})["components"]


def found(seconds: list[float], amount: int = 10, **more: Any) -> dict[str, Any]:
    return {"error": 0.0, "amount": amount, "calls": 1, "seconds": seconds, **more}


def test_components_of_a_group_are_timed_in_turn_and_warm() -> None:
    clock = Clock()
    calls = {"a": clock.work("a", 0.5, first=9.0), "b": clock.work("b", 0.25, first=9.0)}
    taken = in_turn(calls, seconds=1.0, least=0.2, clock=clock)
    assert "".join(clock.log) == "aabb" + "ab" * 6
    assert taken == {"a": (1, [0.5] * 6), "b": (1, [0.25] * 6)}, "the first calls are not among the samples"


def test_as_many_rounds_as_fit_into_the_time_of_all() -> None:
    clock = Clock()
    calls = {"a": clock.work("a", 3 / 128), "b": clock.work("b", 1 / 128)}
    taken = in_turn(calls, seconds=0.5, least=1 / 128, clock=clock)
    assert {len(seconds) for _, seconds in taken.values()} == {32}, "1 s for both, 1/32 s for a round"


def test_a_short_component_is_repeated_in_a_sample_and_reported_per_call() -> None:
    clock = Clock()
    calls = {"short": clock.work("s", 2**-14), "long": clock.work("L", 2**-5)}
    taken = in_turn(calls, seconds=0.01, least=2**-10, clock=clock)
    times, seconds = taken["short"]
    assert 16 <= times <= 20
    assert seconds == [2**-14] * 6
    assert taken["long"] == (1, [2**-5] * 6)
    assert "".join(clock.log).endswith(("s" * times + "L") * 6), "samples in turn"


def test_a_device_is_synchronised_once_per_sample_inside_the_timed_region() -> None:
    clock = Clock()
    launch, wait = clock.work("x", 0.0), clock.work(" ", 0.001)
    times, seconds = in_turn({"x": launch}, seconds=0.01, least=0.005, sync=wait, clock=clock)["x"]
    assert times == component_timing.MOST_CALLS, "the call takes no time, so the limit applies"
    assert seconds == pytest.approx([0.001 / times] * 9, rel=1e-6)
    assert clock.log[-2 - times :] == [" ", *"x" * times, " "]


def test_a_sample_lasts_longer_on_a_device() -> None:
    assert component_timing.LEAST_SAMPLE["cpu"] == 1e-3
    assert component_timing.LEAST_SAMPLE_ELSEWHERE == 5e-3


def test_ratios_are_to_the_first_of_a_group() -> None:
    both = {
        "attention, explicit": found([0.4, 0.5, 0.6, 0.4, 0.5, 0.6]),
        "attention, sdpa": found([0.2, 0.25, 0.3, 0.2, 0.25, 0.3], memory=7),
    }
    first, second = (one.row for one in outcomes(both, "mini").values())
    assert first is not None
    assert second is not None
    assert list(first["ratios"]) == list(second["ratios"]) == ["attention, explicit"]
    assert first["ratios"]["attention, explicit"]["median"] == 1.0
    of_second = second["ratios"]["attention, explicit"]
    assert of_second == {"median": 2.0, "low": 2.0, "high": 2.0, "confidence": 0.95}, "round by round"
    assert (second["name"], second["per_second"], second["memory"]) == ("mini/attention, sdpa", 40.0, 7)


def test_a_group_without_its_first_or_with_one_component_has_no_ratio() -> None:
    char, byte, gpt2 = (f"tokenizers {name}, encode" for name in ("char", "byte", "gpt2"))
    failed = {"failure": "it is off"}
    for some in (
        {char: failed, byte: found([0.1]), gpt2: found([0.2])},
        {char: found([0.1]), byte: failed, gpt2: failed},
        {"batches": found([0.1])},
    ):
        for name, one in outcomes(some, "mini").items():
            assert one == Outcome("it is off") if some[name] is failed else "ratios" not in (one.row or {"ratios": 0})


def test_times_of_different_work_are_not_compared() -> None:
    both = {"checkpoint, save": found([0.1], amount=10), "checkpoint, load": found([0.1], amount=11)}
    with pytest.raises(AssertionError, match="of the same work"):
        outcomes(both, "mini")


def test_components_of_a_group_share_unit_and_device() -> None:
    for group in {component.group for component in COMPONENTS.values()}:
        members = [component for component in COMPONENTS.values() if component.group == group]
        assert len({(component.unit, component.on_device, component.scales) for component in members}) == 1, group


def test_a_component_that_differs_is_not_timed_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    toys = toy("a"), toy("b", error=2 * ALLOWED, called=called), toy("c", error=math.nan, called=called)
    result = timed(monkeypatch, *toys, toy("d", missing="vocabulary"))
    assert len(result["a"]["seconds"]) >= 6
    assert result["b"] == {"failure": "no parity pass, no number: b is off by 2.0e-05, allowed 1e-05"}
    assert result["c"] == {"failure": "no parity pass, no number: c is off by nan, allowed 1e-05"}
    assert result["d"] == {"failure": "d: ValueError: there is no vocabulary here"}
    assert called == [], "it was called only to compare it"


def test_only_the_first_has_its_memory_measured_in_the_timing_process_before_any_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    def watched(run: Callable[[], None]) -> Peak:
        assert called == []
        run()
        return Peak(7, 1, "resident")

    monkeypatch.setattr(component_timing, "watched", watched)
    result = timed(monkeypatch, toy("a", called=called), toy("b", called=called), with_memory=True)
    assert [one.get("memory") for one in result.values()] == [7, None]
    assert all("seconds" in one for one in result.values())
    assert called[0] == "a"
    assert "memory" not in timed(monkeypatch, toy("a"))["a"]


@pytest.mark.parametrize("seen,written", [(0, None), (4096, 4096)])
def test_a_peak_of_0_bytes_is_unknown(seen: int, written: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen:
        def __init__(self, target: str, argument: dict[str, Any]) -> None:
            assert (target, argument["component"]) == ("bench.suite.components:first_call", "batches")

        def result(self) -> Peak:
            return Peak(seen, 1, "resident")

        def stop(self) -> None:
            pass

    monkeypatch.setattr(component_timing, "PeakMeasurement", Seen)
    (memory,) = peaks_of(["batches"], {}).values()
    for one in (found([0.1], memory=memory), found([0.1], memory=seen)):
        row = outcomes({"batches": one}, "mini")["batches"].row
        assert row is not None
        assert row["memory"] == written


@pytest.mark.slow
def test_a_group_is_measured_in_a_process_of_its_own_with_our_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPONENTS, "batches", toy("batches"))  # does not affect the child process
    argument = {"workload": "smoke", "device": "cpu", "threads": 3, "group": "batches", "seconds": 0.05}
    result = Call(
        "bench.suite.component_timing:time_group", {**argument, "with_memory": True}, "timing batches"
    ).result()
    assert result["process"] != os.getpid()
    assert result["threads"] == 3
    batches = result["components"]["batches"]
    assert batches["amount"] == named("smoke").tokens
    assert batches["calls"] > 1, "30 µs are too short for a sample"
    assert 0 < batches["memory"] < 50e6, "the first component's, measured before any other call"


def test_measure_passes_on_the_threads_and_measures_missing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Answered:
        def __init__(self, target: str, argument: dict[str, Any], what: str) -> None:
            asked.append(argument)

        def result(self) -> dict[str, Any]:
            one = {"attention, explicit": found([0.2], memory=5), "attention, sdpa": found([0.1])}
            return {"components": {**one, "made up": {"failure": "it is off"}}}

    def peaks(names: list[str], argument: dict[str, Any]) -> dict[str, int]:
        assert (names, argument["threads"]) == (["attention, sdpa"], torch.get_num_threads())
        return {"attention, sdpa": 6}

    monkeypatch.setattr(component_timing, "Call", Answered)
    monkeypatch.setattr(component_timing, "peaks_of", peaks)
    rows = measure("attention", "smoke", CPU, 0.1)
    assert {name: one.row and one.row["memory"] for name, one in rows.items()} == {
        **{"attention, explicit": 5, "attention, sdpa": 6, "made up": None}
    }
    assert asked[0]["threads"] == torch.get_num_threads()
    rows = measure("attention", "smoke", CPU, 0.1, with_memory=False)
    assert not asked[1]["with_memory"]


def test_on_cuda_the_peak_is_reset_after_cuda_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    for name, answer in {
        **{"init": None, "reset_peak_memory_stats": None, "memory_allocated": 10},
        **{"synchronize": None, "max_memory_allocated": 34},
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, n=name, a=answer: log.append(n) or a)
    once = components.called_once(lambda: log.append("call"), torch.device("cuda:0"))
    assert once() == 24
    order = ["init", "reset_peak_memory_stats", "memory_allocated", "call", "synchronize", "max_memory_allocated"]
    assert log == order


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("group", ["batches", "attention"])
def test_on_cuda_every_component_of_a_group_has_time_and_memory(device: str, group: str) -> None:
    rows = measure(group, "smoke", torch.device(device), 0.1)
    for name, one in rows.items():
        assert one.row is not None, one.failure
        assert one.row["memory"] is not None, name
        assert one.row["calls"] * min(one.row["seconds"]) > 2e-3, "a sample is about 5 ms"


def test_a_tokenizer_encodes_nothing_before_its_memory_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Preparing `encode` encodes nothing; preparing `decode` must encode."""
    encoded: list[int] = []
    real = components.build_tokenizer

    def build(name: str, text: str) -> Any:
        made = real(name, text)
        encode = made.encode
        monkeypatch.setattr(made, "encode", lambda text: encoded.append(len(text)) or encode(text))
        return made

    monkeypatch.setattr(components, "build_tokenizer", build)
    COMPONENTS["tokenizers byte, encode"].prepare(named("smoke"), CPU, tmp_path)
    assert encoded == []
    prepared = COMPONENTS["tokenizers byte, decode"].prepare(named("smoke"), CPU, tmp_path)
    assert encoded == [100_000]
    assert replace(prepared, amount=0).error() == 0.0
