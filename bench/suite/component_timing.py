"""Time the components of a group in turn, A B A B, in a fresh process without the memory and caches of the proofs.

Timing one short call would mostly measure the clock, or on a device the launch and the wait. So a sample is as many
calls as take `LEAST_SAMPLE` together; its seconds are the mean of one call.

Peak memory is measured in a component's first call, before any other call in its process: for the first component of a
group before the others are built, for each other one in its own process (bench/timing/peak_memory.py).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.formatting import one_line
from bench.suite.components import ALLOWED, COMPONENTS, Prepared, called_once, device_of
from bench.timing.fresh_process import Call
from bench.timing.peak_memory import PeakMeasurement, watched
from bench.timing.ratios import nothing, ratio, rounds_within, spread, synchronise, time_calls
from bench.workloads.scenarios import named

LEAST_SAMPLE = {"cpu": 1e-3}  # seconds, by the kind of a device
LEAST_SAMPLE_ELSEWHERE = 5e-3  # a launch and its wait take about 20 µs
MOST_CALLS = 1000  # in a sample
LEAST_ROUNDS, MOST_ROUNDS = 6, 200  # fewer give less than 95 % confidence (bench/timing/ratios.py, confidence_of)


@dataclass(frozen=True)
class Outcome:
    """The result of one component: a row, or its failure."""

    failure: str = ""  # why there is no row
    row: dict[str, Any] | None = None  # see `components` in bench/suite/result_file.py


def measure(
    group: str, workload: str, device: torch.device, seconds: float, with_memory: bool = True
) -> dict[str, Outcome]:
    """Measure all components of a group at a workload's shapes; returns outcomes by name.

    Args:
        device: of the components that use one
        seconds: of timing per component, about
        with_memory: whether to measure peak memory too

    Raises RuntimeError, one line, if a process fails.
    """
    where = {"workload": workload, "device": str(device), "threads": torch.get_num_threads()}
    argument = {**where, "group": group, "seconds": seconds, "with_memory": with_memory}
    found = Call(f"{__name__}:time_group", argument, f"timing {group} at {workload}").result()["components"]
    if with_memory:
        others = [name for name, one in found.items() if "seconds" in one and "memory" not in one]
        for name, memory in peaks_of(others, where).items():
            found[name]["memory"] = memory
    return outcomes(found, workload)


def peaks_of(names: list[str], argument: dict[str, Any]) -> dict[str, int]:
    """Peak memory of components in bytes, all measured at once in separate processes."""
    with ExitStack() as ended:
        started = {
            name: PeakMeasurement(f"{__package__}.components:first_call", {**argument, "component": name})
            for name in names
        }
        for one in started.values():
            ended.callback(one.stop)
        return {name: one.result().bytes for name, one in started.items()}


def outcomes(found: Mapping[str, Mapping[str, Any]], workload: str) -> dict[str, Outcome]:
    """Turn results of `time_group` into rows; ratios are to the group's first component, if that was timed."""
    timed = [name for name, one in found.items() if "seconds" in one]
    compared = len(timed) > 1 and timed[0] == next(iter(found))
    rows: dict[str, Outcome] = {}
    for name, one in found.items():
        if name not in timed:
            rows[name] = Outcome(one["failure"])
            continue
        component, taken = COMPONENTS[name], one["seconds"]
        row = row_of(name, workload, component.group, component.description, component.unit, one["amount"], taken)
        # a peak of 0 bytes means that nothing was measured
        row |= {"calls": one["calls"], "error": one["error"], "memory": one.get("memory") or None}
        if compared:
            assert one["amount"] == found[timed[0]]["amount"], "a ratio of times is one of the same work"
            row["ratios"] = {timed[0]: asdict(ratio(found[timed[0]]["seconds"], taken))}
        rows[name] = Outcome(row=row)
    return rows


def row_of(
    name: str, workload: str, group: str, description: str, unit: str, amount: int, seconds: list[float]
) -> dict[str, Any]:
    """A component's row; see `components` in bench/suite/result_file.py.

    Args:
        amount: units per call
        seconds: per call, for each sample
    """
    return {
        "name": f"{workload}/{name}",
        "component": name,
        "workload": workload,
        "group": group,
        "description": description,
        "unit": unit,
        "amount": amount,
        "per_second": amount / median(seconds),
        "spread": spread(seconds),
        "seconds": seconds,
        "calls": 1,
        "memory": None,
    }


def time_group(argument: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: prove each component of a group, then time in turn those that passed.

    Returns the process id, its threads, and for each component a failure, or error, amount, calls and seconds; for the
    first also memory, if wanted.
    """
    torch.set_num_threads(argument["threads"])
    group = [component for component in COMPONENTS.values() if component.group == argument["group"]]
    device = device_of(group[0], torch.device(argument["device"]))
    found: dict[str, dict[str, Any]] = {}
    ready: dict[str, Prepared] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, component in enumerate(group):
            own = Path(folder, str(number))
            own.mkdir()
            try:
                prepared = component.prepare(named(argument["workload"]), device, own)
                alone = number == 0 and argument["with_memory"]
                memory = {"memory": watched(called_once(prepared.call, device)).bytes} if alone else {}
                error = prepared.error()
            except Exception as reason:  # the others are still measured
                found[component.name] = {"failure": f"{component.name}: {one_line(reason)}"}
                continue
            if error <= ALLOWED:
                ready[component.name] = prepared
                found[component.name] = {"error": error, "amount": prepared.amount, **memory}
            else:
                off = f"{component.name} is off by {error:.1e}, allowed {ALLOWED:.0e}"
                found[component.name] = {"failure": f"no parity pass, no number: {off}"}
        calls = {name: prepared.call for name, prepared in ready.items()}
        least = LEAST_SAMPLE.get(device.type, LEAST_SAMPLE_ELSEWHERE)
        for name, (times, taken) in in_turn(calls, argument["seconds"], least, synchronise(device)).items():
            found[name] |= {"calls": times, "seconds": taken}
    return {"process": os.getpid(), "threads": torch.get_num_threads(), "components": found}


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    least: float,
    sync: Callable[[], object] = nothing,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[int, list[float]]]:
    """Time calls in turn; returns by name the calls per sample, and the seconds per call of each sample.

    Args:
        seconds: of timing per call, about
        least: least seconds of one sample
        sync: waits for the device
    """
    sized = {name: sample_of(call, least, sync, clock) for name, call in calls.items()}
    one_round = sum(took for _, took in sized.values())
    rounds = rounds_within(seconds * len(calls), one_round, LEAST_ROUNDS, MOST_ROUNDS)
    samples = {name: repeated(calls[name], times) for name, (times, _) in sized.items()}
    taken = time_calls(samples, rounds, warmup=0, sync=sync, clock=clock)  # they are warm
    return {name: (times, [one / times for one in taken[name]]) for name, (times, _) in sized.items()}


def sample_of(
    call: Callable[[], object], least: float, sync: Callable[[], object], clock: Callable[[], float]
) -> tuple[int, float]:
    """The number of calls that take `least` seconds together, at most `MOST_CALLS`, and their seconds; warm."""
    times, warmup = 1, 1
    while True:
        (took,) = time_calls({"": repeated(call, times)}, 1, warmup, sync, clock)[""]
        if took >= least or times >= MOST_CALLS:
            return times, took
        more = ceil(1.2 * times * least / max(took, 1e-9))  # a little above, as samples differ
        times, warmup = min(MOST_CALLS, max(times + 1, more)), 0


def repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Repeat a call without waiting for the device in between."""

    def run() -> None:
        for _ in range(times):
            call()

    return run
