"""`python -m bench compare`: prove contenders equal, time the proven ones in turn, measure their memory."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.contenders import CONTENDERS, Weights, build_in, chosen, import_what_is_needed
from bench.environment import environment
from bench.hot import random_batch
from bench.memory import activation_bytes, available_bytes, check_memory, needed_bytes, start_measuring
from bench.parity import Measurement
from bench.progress import Progress
from bench.proof import ORACLE, Part, Verdict, parts_of, prove, stages, weights_of
from bench.results import VERSION, Result, path_for, write
from bench.settings import Compare
from bench.tables import show
from bench.throughput import interleave, ratio, rounds_within, spread, synchronise
from bench.workloads import PRECISIONS, Workload, workload
from reference.devices import choose_device

LEAST_ROUNDS, MOST_ROUNDS = 5, 200  # fewer make no interval; more make no better one
FORWARD_SHARE = 1 / 3  # of the time for timing


def compare(options: Compare) -> int:
    """Run a comparison, print it and write it down.

    Returns 0 if every contender was proven, else 1. Raises ValueError, one line, for what the user cannot have.
    """
    started, start = datetime.now().astimezone(), time.monotonic()
    options.check()
    names = chosen(options.contenders)
    what = workload(options.size, options.batch, options.time)
    if options.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {options.precision!r}: give one of {', '.join(PRECISIONS)}")
    device = device_for(options)
    for name in dict.fromkeys([ORACLE, *names]):
        import_what_is_needed(name)
    parts = parts_of(what, options.precision, options.steps)
    check_memory(
        needed_bytes(what, options.precision, len(names), parts[0].steps),
        available_bytes(device),
        f"comparing {len(names)} contender{'s' if len(names) > 1 else ''} at size {what.size}, "
        f"batch {what.batch}, time {what.time} in {options.precision}",
    )
    path = path_for(started, options.json)
    with threads(options.threads):
        surroundings = environment(device)
        contenders = measure(what, options, names, parts, device)
    result: Result = {
        "kind": "compare",
        "version": VERSION,
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.monotonic() - start,
        "arguments": {**dataclasses.asdict(options), "contenders": names, "json": str(path)},
        "environment": surroundings,
        "workload": {
            "size": what.size,
            "config": dataclasses.asdict(what.config),
            "parameters": what.config.parameter_count(),
            "batch": what.batch,
            "time": what.time,
            "precision": options.precision,
            "device": str(device),
            "flops": {"forward": what.forward_flops(), "training_step": what.step_flops()},
        },
        "proof": [{**dataclasses.asdict(part), "oracle": f"{ORACLE} in float64"} for part in parts],
        "contenders": contenders,
    }
    show(result)
    write(path, result)
    print(f"everything that was measured: {path}")
    return 0 if all(contender["proof"]["passed"] for contender in contenders) else 1


def device_for(options: Compare) -> torch.device:
    """The device that the user asks for; a ValueError if there is none or it lacks the precision."""
    if options.device.startswith("mps") and options.precision == "float64":
        raise ValueError("--precision float64 on mps: that device has no float64; give --device cpu, or float32")
    return choose_device(options.device, options.precision)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute on so many CPU threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    what: Workload, options: Compare, names: list[str], parts: list[Part], device: torch.device
) -> list[dict[str, Any]]:
    """Proofs, times and memory of every contender, as `bench.results` describes them."""
    verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
    with Progress(sum(stages(part, names) for part in parts) + (3 if options.memory else 2)) as progress:
        for part in parts:
            weights = weights_of(part, what.config, options.seed)
            for name, verdict in prove(part, what.config, weights, names, device, options.seed, progress.stage):
                verdicts[name].append(verdict)
        proven = [name for name in names if not any(verdict.failures() for verdict in verdicts[name])]
        speeds = time_in_turn(what, options, proven, weights, device, progress) if proven else {}
        del weights
        memory = {}
        if proven and options.memory:
            progress.stage(f"peak memory of {', '.join(proven)}")
            memory = peak_memories(what, options.precision, proven, device)
    return [
        {
            "name": name,
            "description": CONTENDERS[name].description,
            "proof": {"passed": name in proven, "parts": [describe(verdict) for verdict in verdicts[name]]},
            **({"speed": speeds[name]} if name in speeds else {}),
            **({"memory": memory[name]} if name in memory else {}),
        }
        for name in names
    ]


def describe(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values."""

    def plain(measurement: Measurement) -> dict[str, Any]:
        return {
            "quantity": measurement.quantity,
            "name": measurement.name,
            "error": measurement.error,
            "largest": measurement.largest,
            "allowed": verdict.allowed(measurement),
        }

    worst: dict[str, dict[str, Any]] = {}
    # by what is nearest to its budget, and where nothing is judged by the error itself
    for m in sorted(verdict.report.measurements, key=lambda m: (-verdict.over(m), -m.error)):
        worst.setdefault(m.quantity, plain(m))
    return {
        "top1": verdict.report.top1,
        "over": verdict.worst_over(),
        "worst": worst,
        "failures": [plain(m) for m in verdict.failures()],
    }


def time_in_turn(
    what: Workload,
    options: Compare,
    names: Sequence[str],
    weights: Weights,
    device: torch.device,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Forward passes and training steps of all contenders, in one process, in turn."""
    progress.stage(f"timing forward passes of {', '.join(names)}")
    ids, targets = (t.to(device) for t in random_batch(what.config, what.batch, what.time, options.seed))
    models = {name: build_in(options.precision, name, what.config, weights, device).eval() for name in names}
    with torch.no_grad():
        forward = timed(
            {name: lambda model=model: model(ids) for name, model in models.items()},  # type: ignore[misc]
            options.seconds * FORWARD_SHARE,
            options.rounds,
            device,
            lambda number: progress.within(f"timing forward passes, round {number}"),
        )
    progress.stage(f"timing training steps of {', '.join(names)}")
    steps: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        name: CONTENDERS[name].build_step(model.train()) for name, model in models.items()
    }
    training = timed(
        {name: lambda step=step: step(ids, targets) for name, step in steps.items()},  # type: ignore[misc]
        options.seconds * (1 - FORWARD_SHARE),
        options.rounds,
        device,
        lambda number: progress.within(f"timing training steps, round {number}"),
    )
    del models, steps
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        name: {
            "forward": speed(forward, name, names[0], what.tokens),
            "training_step": speed(training, name, names[0], what.tokens),
        }
        for name in names
    }


def timed(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    rounds: int | None,
    device: torch.device,
    tell: Callable[[int], None],
) -> dict[str, list[float]]:
    """Time calls in turn for about so many seconds, or for so many rounds; the first says how many fit."""
    sync, number = synchronise(device), 0

    def count() -> None:
        nonlocal number
        number += 1
        tell(number)

    first = interleave(calls, rounds=1, warmup=1, sync=sync, after_round=count)
    if rounds is None:
        rounds = rounds_within(seconds, sum(times[0] for times in first.values()), LEAST_ROUNDS, MOST_ROUNDS)
    others = interleave(calls, rounds - 1, warmup=0, sync=sync, after_round=count)
    return {name: [*first[name], *others[name]] for name in calls}


def speed(samples: dict[str, list[float]], name: str, base: str, tokens: int) -> dict[str, Any]:
    """What the samples say of one contender: as `bench.results` describes it."""
    seconds = samples[name]
    times = ratio(samples[base], seconds)  # base's time over ours: how many times as fast we are
    return {
        "tokens_per_second": tokens / median(seconds),
        "spread": spread(seconds),
        "seconds": seconds,
        "ratio": {"to": base, **dataclasses.asdict(times)},
    }


def peak_memories(
    what: Workload, precision: str, names: Sequence[str], device: torch.device
) -> dict[str, dict[str, Any]]:
    """Peak memory of each contender's training step; all at once where they fit, to wait for their imports once.

    They then share the threads: two processes with two threads each on two cores would mostly wait for each other.
    """
    width = 8 if precision == "float64" else 4
    together = len(names) * (4 * width * what.config.parameter_count() + activation_bytes(what, width))
    free = available_bytes(device)
    at_once = len(names) if device.type == "cpu" and free is not None and together < 0.8 * free else 1
    shared = max(1, torch.get_num_threads() // at_once)
    found: dict[str, dict[str, Any]] = {}
    for begin in range(0, len(names), at_once):
        running = {}
        try:
            for name in names[begin : begin + at_once]:
                running[name] = start_measuring(name, what, precision, device, shared)
            for name, measurement in running.items():
                try:
                    peak = measurement.result()
                    found[name] = {"peak": peak.bytes, "baseline": peak.baseline, "method": peak.method}
                except RuntimeError as error:
                    found[name] = {"error": str(error)}
        finally:
            for measurement in running.values():
                measurement.stop()
    return found
