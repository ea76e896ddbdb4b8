"""Time contenders in turn, each in its own process, one task at a time: the engine of `compare` and of the suite.

For each contender and task: the seconds of every round, of the first call and of compiling, peak memory, and the ratio
to the base, computed round by round.

A process keeps its place in memory until it ends, which can shift all its times by 10 %. So the last task of a scenario
can be timed in several launches of all processes, and its intervals include the differences between launches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from math import ceil
from statistics import median
from typing import Any

import torch

from bench.journal import Keep, without_journal
from bench.timing.peak_memory import Peak
from bench.timing.ratios import Ratio, ratio, ratio_over_launches, rounds_within, spread
from bench.timing.worker import Compiled, Job, Worker, all_at_once, crew, in_turn, job
from bench.workloads.scenarios import SCENARIOS, scenario_bytes
from bench.workloads.workload import Workload

Tell = Callable[[str], None]

LEAST_SAMPLE, MOST_CALLS = 0.03, 50  # least seconds of a sample of the fastest contender; most calls in a sample


@dataclass(frozen=True)
class Timings:
    """Measurements of one contender in one task."""

    seconds: list[float]  # of each round: entry i of all contenders that ran together is from round i
    rounds: list[int]  # in each launch; `seconds` holds the launches one after the other
    first: float  # seconds of the first call, which compiles and allocates
    compiled: Compiled  # before the rounds
    recompiled: int  # graphs compiled during the rounds: must be 0
    memory: Peak
    ratios: dict[str, Ratio]  # the anchor's time / ours: above 1 is faster

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Timings:
        """Rebuild from plain values."""
        compiled, memory = Compiled(**values["compiled"]), Peak(**values["memory"])
        return cls(**{**values, "compiled": compiled, "memory": memory})

    def by_launch(self) -> list[list[float]]:
        """`seconds`, split by launch."""
        ends = list(accumulate(self.rounds))
        return [self.seconds[end - rounds : end] for end, rounds in zip(ends, self.rounds, strict=True)]

    def times_as_fast(self, anchor: Timings) -> Ratio:
        """The ratio to a contender timed in the same rounds: above 1 is faster."""
        pairs = list(zip(anchor.by_launch(), self.by_launch(), strict=True))
        return ratio(*pairs[0]) if len(pairs) == 1 else ratio_over_launches(pairs)

    def speed(self, tokens: int) -> dict[str, Any]:
        """Plain values for a result file.

        Args:
            tokens: per call
        """
        return {
            "tokens_per_second": tokens / median(self.seconds),
            "spread": spread(self.seconds),
            "seconds": self.seconds,
            "rounds": self.rounds,
            "ratios": {anchor: asdict(found) for anchor, found in self.ratios.items()},
        }


@dataclass(frozen=True)
class TimeBudget:
    """How long to measure."""

    seconds: float  # per task and contender, about
    least: int  # rounds
    most: int

    def of_one(self, launches: int) -> TimeBudget:
        """Split the time over launches; the total number of rounds stays the same."""
        return TimeBudget(self.seconds / launches, ceil(self.least / launches), ceil(self.most / launches))


class Progress:
    """Report each step of a measurement as a line."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def at(self, where: str) -> Progress:
        """Progress whose lines say where."""
        return Progress(lambda what: self.tell(f"{where}: {what}"))

    def launch(self, number: int, launches: int, names: Sequence[str]) -> None:
        """A launch begins."""
        self.tell(f"launch {number} of {launches}: {', '.join(names)}")

    def task(self, task: str, names: Iterable[str]) -> None:
        """The first calls of a task begin."""
        self.tell(f"{task} of {', '.join(names)}: first calls")

    def rounds(self, task: str, names: Iterable[str], rounds: int) -> None:
        """The rounds of a task begin."""
        self.tell(f"{task} of {', '.join(names)}: {rounds} rounds")

    def round(self, task: str, number: int) -> None:
        """A round begins; reports nothing by default."""


def run_scenario(
    work: Workload,
    scenario: str,
    names: Sequence[str],
    device: torch.device,
    time_budgets: Mapping[str, TimeBudget],
    progress: Progress,
    free: int | None = None,
    anchors: int = 1,
    launches: int = 1,
    precision: str = "float32",
    keep: Keep = without_journal,
) -> dict[str, dict[str, Timings]]:
    """Time contenders in turn, each in its own process, one task at a time; returns by contender, then by task.

    Args:
        names: proven contenders, in the order of each round. A repeated name becomes "NAME (again)"
        time_budgets: by task
        free: free memory in bytes; contenders that do not fit together are timed in groups. None if unknown
        anchors: number of contenders, from the first, that are in every group; ratios are to these
        launches: of all processes: the first times all tasks, the others only the last task
        precision: of the contenders that do not choose their own
        keep: stores the result of each launch, or returns it if a stopped run has measured it
    """
    jobs = [job(name, work, scenario, precision, device, again=name in names[:n]) for n, name in enumerate(names)]
    together = len(jobs) if free is None else int(0.9 * free / scenario_bytes(work, scenario, precision))
    base, others = jobs[:anchors], jobs[anchors:]
    at_once = max(1, together - anchors)
    groups = [others[i : i + at_once] for i in range(0, len(others), at_once)] or [[]]
    found: dict[str, dict[str, Timings]] = {}
    tasks = SCENARIOS[scenario]
    cold = scenario != "ladder"  # the ladder's first calls are not shown
    for group in groups:
        members = [*base, *group]
        called = [each.label for each in members]
        measured: dict[str, list[dict[str, Timings]]] = {task: [] for task in tasks}
        for number in range(launches):
            # shuffle each launch: each contender finds the caches as its predecessor left them
            order = members if number == 0 else random.Random(number).sample(members, len(members))
            limits = {task: time_budgets[task] for task in tasks} if number == 0 else {}
            limits[tasks[-1]] = time_budgets[tasks[-1]].of_one(launches)

            def run(
                order: Sequence[Job] = order, limits: Mapping[str, TimeBudget] = limits, first: bool = number == 0
            ) -> Any:
                with crew(order) as workers:
                    found = {
                        task: time_task(workers, task, limit, progress, cold and first)
                        for task, limit in limits.items()
                    }
                return {task: {name: asdict(timings) for name, timings in of.items()} for task, of in found.items()}

            progress.launch(number + 1, launches, called)
            limits_of_all = [asdict(time_budgets[task]) for task in tasks]
            key = [asdict(work), scenario, called, precision, anchors, limits_of_all, number, launches]
            for task, found_now in keep("launch", key, run).items():
                measured[task].append({name: Timings.from_json(timings) for name, timings in found_now.items()})
        for name in called:
            if name not in found:
                found[name] = {task: joined(measured[task], name, called[:anchors]) for task in tasks}
    return found


def joined(launches: Sequence[Mapping[str, Timings]], name: str, anchors: Sequence[str]) -> Timings:
    """Join a contender's timings over all launches and compute its ratios to the anchors."""

    def over_launches(contender: str) -> Timings:
        own = [launch[contender] for launch in launches]
        return replace(
            own[0],
            seconds=[seconds for one in own for seconds in one.seconds],
            rounds=[rounds for one in own for rounds in one.rounds],
            recompiled=sum(one.recompiled for one in own),
            memory=max((one.memory for one in own), key=lambda peak: peak.bytes),
        )

    ours = over_launches(name)
    return replace(ours, ratios={anchor: ours.times_as_fast(over_launches(anchor)) for anchor in anchors})


def drop_preempted(seconds: Mapping[str, list[float]], task: str) -> tuple[dict[str, list[float]], int]:
    """Drop rounds where generating n tokens was no slower than generating one: the short run was preempted.

    Returns the remaining seconds by contender, and the number of rounds. Raises RuntimeError if no round remains.
    """
    good = [all(s > 0.0 for s in of_round) for of_round in zip(*seconds.values(), strict=True)]
    if not any(good):
        raise RuntimeError(f"{task}: in none of {len(good)} rounds did more tokens take longer than one: measure again")
    return {name: [s for s, kept in zip(own, good, strict=True) if kept] for name, own in seconds.items()}, sum(good)


def time_task(
    workers: Mapping[str, Worker], task: str, time_budget: TimeBudget, progress: Progress, cold: bool = True
) -> dict[str, Timings]:
    """Time one task in one launch; ratios stay empty.

    Args:
        cold: run first calls in turn, because their times will be shown; else all at once

    Every round has the same order, A B C A B C. In A B C C B A a contender would sometimes run twice in a row and find
    its data in the caches; the median of such a mixture means little.

    Seconds per token: (time of n tokens - time of 1 token in the same round) / (n - 1).
    """
    one = "prefill" if task in ("prefill", "per_token") else task
    calls = (one, "generation") if task == "per_token" else (one,)
    progress.task(task, workers)
    first = [in_turn(workers, call) if cold else all_at_once(workers, call) for call in calls]
    called_once = {name: worker.compiled() for name, worker in workers.items()}
    warm = [in_turn(workers, call) for call in calls]
    before = {name: worker.compiled() for name, worker in workers.items()}
    memory = {name: worker.peak() for name, worker in workers.items()}
    # repeat calls that are shorter than the scheduler's time slice
    repeats = [max(1, min(MOST_CALLS, int(LEAST_SAMPLE / min(taken.values())))) for taken in warm]
    one_round = sum(seconds * k for taken, k in zip(warm, repeats, strict=True) for seconds in taken.values())
    rounds = rounds_within(time_budget.seconds * len(workers), one_round, time_budget.least, time_budget.most)
    progress.rounds(task, workers, rounds)
    samples: dict[str, list[list[float]]] = {name: [] for name in workers}
    if before == called_once and repeats == [1]:  # then the warm calls count as a round: they may be long
        samples = {name: [[taken[name] for taken in warm]] for name in workers}
    for number in range(1 + len(next(iter(samples.values()))), rounds + 1):
        progress.round(task, number)
        for name, worker in workers.items():
            samples[name].append([worker.time(call, k) for call, k in zip(calls, repeats, strict=True)])
    after = {name: worker.compiled() for name, worker in workers.items()}
    new = {name: worker.new for name, worker in workers.items()}
    seconds = {
        name: [s[0] if len(calls) == 1 else (s[1] - s[0]) / (new[name] - 1) for s in samples[name]] for name in workers
    }
    seconds, rounds = drop_preempted(seconds, task)
    return {
        name: Timings(
            seconds=seconds[name],
            rounds=[rounds],
            first=first[-1][name],
            compiled=before[name],
            recompiled=after[name].graphs - before[name].graphs,
            memory=memory[name],
            ratios={},
        )
        for name in workers
    }
