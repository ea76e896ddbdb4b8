"""`python -m bench compare`: prove contenders equal, time the proven ones in turn, measure their memory."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import torch

from bench.compare.result_file import VERSION, Result, path_for
from bench.compare.tables import show
from bench.contenders import ALL, CONTENDERS, able, chosen, import_what_is_needed, missing, own_precision
from bench.contenders.verify import (
    ORACLE,
    Check,
    Verdict,
    checks_of,
    contenders_for,
    denormals_flushed,
    prove,
    stages,
    weights_of,
)
from bench.environment import environment, threads
from bench.journal import write
from bench.numerics.errors import Measurement
from bench.settings import Compare
from bench.timing.interleave import Progress, TimeBudget, run_jobs
from bench.timing.worker import TASKS, job
from bench.workloads.memory import activation_bytes, available_bytes, check_memory, give_back_freed, needed_bytes
from bench.workloads.scenarios import INTERPRETER
from bench.workloads.workload import PRECISIONS, Workload, workload
from optimized.recipe import left_out as left_out_rungs
from reference.cli.progress import Stages
from reference.config import GPTConfig
from reference.training.devices import choose_device

LEAST_ROUNDS = {"forward": 5, "training_step": 5, "generation": 3}  # fewer give no useful interval
MOST_ROUNDS = 200  # more hardly narrow it
SHARES = {"forward": 0.25, "training_step": 0.5, "generation": 0.25}  # of --seconds
TITLES = {"forward": "forward passes", "training_step": "training steps", "generation": "generation"}


def compare(options: Compare) -> int:
    """Run a comparison, print it and write its result file.

    Returns 0 if every contender passed its proof or is known to be another function, else 1. Raises ValueError, one
    line, for a user's mistake.
    """
    started, start = datetime.now().astimezone(), time.monotonic()
    options.check()
    names = chosen(options.contenders)
    left_out: list[str] = []
    if ALL in options.contenders:
        names, left_out = able(names, options.precision)
    what = workload(options.size, options.batch, options.time)
    if not options.bias:
        what = dataclasses.replace(what, config=dataclasses.replace(what.config, bias=False))
    if options.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {options.precision!r}: give one of {', '.join(PRECISIONS)}")
    device = device_for(options)
    for name in dict.fromkeys([ORACLE, *names]):
        line = missing(name, options.precision)
        if line is not None:
            raise ValueError(line)
        import_what_is_needed(name)
    rounding = any(CONTENDERS[name].uses_bfloat16(what.config, device) for name in names)
    checks = checks_of(what, options.precision, options.steps, rounding)
    left_out += left_out_by_best(names, device, options.precision, what.config)
    check_memory(
        needed_bytes(what, options.precision, min(2, len(names)), checks[0].steps),
        available_bytes(device),
        f"comparing {len(names)} contender{'s' if len(names) > 1 else ''} at size {what.size}, "
        f"batch {what.batch}, time {what.time} in {options.precision}",
    )
    path = path_for(started, options.json)
    with threads(options.threads), denormals_flushed():
        run_environment = environment(device)
        contenders = measure(what, options, names, checks, device)
    result: Result = {
        "kind": "compare",
        "version": VERSION,
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.monotonic() - start,
        "arguments": {**asdict(options), "contenders": names, "json": str(path)},
        "environment": run_environment,
        "workload": {
            "size": what.size,
            "config": asdict(what.config),
            "parameters": what.config.parameter_count(),
            "batch": what.batch,
            "time": what.time,
            "precision": options.precision,
            "device": str(device),
            "new_tokens": options.new_tokens,
            "flops": {"forward": what.forward_flops(), "training_step": what.step_flops()},
        },
        "proof": [{**asdict(check), "oracle": f"{ORACLE} in float64"} for check in checks],
        "contenders": contenders,
        "left_out": left_out,
    }
    show(result)
    write(path, result)
    print(f"everything that was measured: {path}")
    return 0 if all(contender["proof"]["passed"] or contender["unlike"] for contender in contenders) else 1


def left_out_by_best(names: Sequence[str], device: torch.device, precision: str, config: GPTConfig) -> list[str]:
    """A line for each rung that the contender `optimized` leaves out here."""
    if "optimized" not in names:
        return []
    dtype = "float64" if precision == "float64" else "float32"
    return [f"optimized leaves out {name}: {why}" for name, why in left_out_rungs(str(device), dtype, config).items()]


def device_for(options: Compare) -> torch.device:
    """The device of --device. Raises ValueError if it does not exist or lacks the precision."""
    if options.device.startswith("mps") and options.precision == "float64":
        raise ValueError("--precision float64 on mps: that device has no float64; give --device cpu, or float32")
    return choose_device(options.device, options.precision)


def measure(
    what: Workload, options: Compare, names: list[str], checks: list[Check], device: torch.device
) -> list[dict[str, Any]]:
    """Prove, time and measure the memory of every contender; returns `contenders` of bench/compare/result_file.py."""
    verdicts: dict[str, list[Verdict | None]] = {name: [] for name in names}
    asked = [contenders_for(check, options.precision, names, what.config, device) for check in checks]
    timings = 1 + len(tasks_of(options))
    with Stages(sum(stages(check, some) for check, some in zip(checks, asked, strict=True)) + timings) as progress:
        for (check, weights), some in zip(weights_of(checks, what.config, options.seed), asked, strict=True):
            found = dict(prove(check, what.config, weights, some, device, options.seed, progress.stage))
            for name in names:
                verdicts[name].append(found.get(name))
        del weights
        proven = [n for n in names if not any(verdict.failures() for verdict in verdicts[n] if verdict is not None)]
        timed = time_in_turn(what, options, proven, device, progress) if proven else {}
    return [
        {
            "name": name,
            "description": CONTENDERS[name].description,
            "precision": own_precision(options.precision, name, what.config, device),
            "unlike": "" if name in proven else CONTENDERS[name].unlike(what.config),
            "proof": {
                "passed": name in proven,
                "checks": [None if verdict is None else describe(verdict) for verdict in verdicts[name]],
            },
            **timed.get(name, {}),
        }
        for name in names
    ]


def tasks_of(options: Compare) -> list[str]:
    """The timed tasks."""
    return [task for task in TASKS if task != "generation" or options.new_tokens]


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
    # the largest error / budget first; without budgets, the largest error
    for m in sorted(verdict.report.measurements, key=lambda m: (-verdict.over(m), -m.error)):
        worst.setdefault(m.quantity, plain(m))
    return {
        "top1": verdict.report.top1,
        "over": verdict.worst_over(),
        "worst": worst,
        "failures": [plain(m) for m in verdict.failures()],
    }


class Timing(Progress):
    """Show each task as one stage, also if contenders are timed in several groups."""

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages.within)
        self.stages = stages
        self.begun: set[str] = set()

    def task(self, task: str, names: Iterable[str]) -> None:
        title = f"timing {TITLES[task]} of {', '.join(names)}"
        self.tell(title) if task in self.begun else self.stages.stage(title)
        self.begun.add(task)

    def round(self, task: str, number: int) -> None:
        self.tell(f"timing {TITLES[task]}, round {number}")


def time_in_turn(
    what: Workload, options: Compare, names: Sequence[str], device: torch.device, progress: Stages
) -> dict[str, dict[str, Any]]:
    """Speed and peak memory of contenders, timed in turn, each in its own process; ratios are to the first."""
    gc.collect()
    give_back_freed()
    progress.stage(f"building {', '.join(names)}")
    threads, time_budgets = torch.get_num_threads(), {}
    for task in tasks_of(options):
        least, most = (options.rounds,) * 2 if options.rounds else (LEAST_ROUNDS[task], MOST_ROUNDS)
        time_budgets[task] = TimeBudget(options.seconds * SHARES[task] / len(names), least, most)
    precisions = {name: own_precision(options.precision, name, what.config, device) for name in names}
    jobs = [job(name, what, precisions[name], device, threads, options.new_tokens) for name in names]
    found = run_jobs(jobs, time_budgets, Timing(progress), together=fitting(what, options.precision, device))
    return {
        name: {
            "speed": {
                task: {"first": timings.first, **timings.speed(amount(task, what, options))}
                for task, timings in by_task.items()
            },
            "memory": max((timings.memory for timings in by_task.values()), key=lambda peak: peak.bytes).record(),
        }
        for name, by_task in found.items()
    }


def fitting(what: Workload, precision: str, device: torch.device) -> int:
    """The number of contenders that fit into free memory when trained together; at least 2."""
    free = available_bytes(device)
    if free is None:
        return len(CONTENDERS)
    width = 8 if precision == "float64" else 4
    each = 5 * width * what.config.parameter_count() + activation_bytes(what, width) + INTERPRETER
    return max(2, int(0.9 * free / each))


def amount(task: str, what: Workload, options: Compare) -> int:
    """Tokens of one call of a task."""
    return options.new_tokens if task == "generation" else what.tokens
