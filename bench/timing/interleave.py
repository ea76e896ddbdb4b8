"""Time contenders in turn, each in a process of its own, task after task: the engine of `compare` and of the suite.

It measures, for each contender and task, the seconds of every round, of a first call and of compiling, the peak memory,
and the ratio to the base, from times taken next to each other.

Where a process lies in memory stays for as long as it runs, and can move all its times by a tenth. So the last task
of a scenario may be done by several launches of all processes, one after the other: the intervals
then know how launches differ.
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

from bench.contenders.gate import precision_of
from bench.journal import Keep, anew
from bench.timing.peak_memory import Peak
from bench.timing.ratios import Ratio, ratio, ratio_over_launches, rounds_within, spread
from bench.timing.worker import Compiled, Job, Worker, all_at_once, crew, job, take_turns
from bench.workloads.scenarios import ROWS, SCENARIOS, scenario_bytes, text_shape
from bench.workloads.workload import Workload

Tell = Callable[[str], None]

LEAST_SAMPLE, MOST_CALLS = 0.03, 50  # seconds of the fastest; calls


@dataclass(frozen=True)
class Timings:
    """Measurements of one contender in one task."""

    seconds: list[float]  # of the rounds: entry i of all contenders that ran together is from round i
    rounds: list[int]  # of each launch, one launch after the other in `seconds`
    first: float  # of the first call, which compiles and allocates
    compiled: Compiled  # until the rounds began
    recompiled: int  # graphs compiled during the rounds: must be 0
    memory: Peak
    ratios: dict[str, Ratio]  # an anchor's time over ours: how many times as fast

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Timings:
        """What `time_task` found, from plain values."""
        compiled, memory = Compiled(**values["compiled"]), Peak(**values["memory"])
        return cls(**{**values, "compiled": compiled, "memory": memory})

    def by_launch(self) -> list[list[float]]:
        """The seconds of each launch."""
        ends = list(accumulate(self.rounds))
        return [self.seconds[end - rounds : end] for end, rounds in zip(ends, self.rounds, strict=True)]

    def times_as_fast(self, anchor: Timings) -> Ratio:
        """Than another contender of the same rounds."""
        pairs = list(zip(anchor.by_launch(), self.by_launch(), strict=True))
        return ratio(*pairs[0]) if len(pairs) == 1 else ratio_over_launches(pairs)

    def speed(self, tokens: int) -> dict[str, Any]:
        """What a result file has of it, as plain values.

        Args:
            tokens: of one call
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

    seconds: float  # for a task of one contender, about
    least: int  # rounds
    most: int

    def of_one(self, launches: int) -> TimeBudget:
        """The budget of each launch, so that all launches together have as many rounds."""
        return TimeBudget(self.seconds / launches, ceil(self.least / launches), ceil(self.most / launches))


class Progress:
    """Told how far a measurement is; tells a line for each step."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def launch(self, number: int, launches: int, names: Sequence[str]) -> None:
        """Processes are launched."""
        self.tell(f"launch {number} of {launches}: {', '.join(names)}")

    def task(self, task: str, names: Iterable[str]) -> None:
        """The first calls of a task begin."""
        self.tell(f"{task} of {', '.join(names)}: first calls")

    def rounds(self, task: str, names: Iterable[str], rounds: int) -> None:
        """The rounds of a task begin."""
        self.tell(f"{task} of {', '.join(names)}: {rounds} rounds")

    def round(self, task: str, number: int) -> None:
        """A round begins, which is worth no line."""


def run_scenario(
    work: Workload,
    scenario: str,
    names: Sequence[str],
    device: torch.device,
    time_budget: TimeBudget,
    tell: Tell,
    free: int | None = None,
    anchors: int = 1,
    launches: int = 1,
    keep: Keep = anew,
) -> dict[str, dict[str, Timings]]:
    """Run a scenario; returns by contender, then by task.

    Args:
        names: who takes part, each proven. A name may come twice: the second is then called "NAME (again)"
        free: bytes of memory, which limit how many processes run together; None if that is not known
        anchors, launches: see `run_jobs`
        keep: keeps what a launch found, or knows it from a run that was stopped
    """
    jobs = [scenario_job(name, work, scenario, device, again=name in names[:n]) for n, name in enumerate(names)]
    return run_jobs(
        jobs,
        dict.fromkeys(SCENARIOS[scenario], time_budget),
        Progress(tell),
        together=len(jobs) if free is None else int(0.9 * free / scenario_bytes(work, scenario)),
        anchors=anchors,
        launches=launches,
        cold=scenario != "ladder",  # whose first calls nobody shows
        keep=lambda what, key, measure: keep(what, [asdict(work), scenario, *key], measure),
    )


def run_jobs(
    jobs: Sequence[Job],
    time_budgets: Mapping[str, TimeBudget],
    progress: Progress,
    together: int,
    anchors: int = 1,
    launches: int = 1,
    cold: bool = True,
    keep: Keep = anew,
) -> dict[str, dict[str, Timings]]:
    """Time jobs in turn, in processes of their own, task after task; returns by contender, then by task.

    Args:
        jobs: in the order of their turns
        time_budgets: of each task, in order
        together: processes that fit into memory side by side: where not all do, they come in groups
        anchors: the first of the jobs, which are in every group: ratios are to these
        launches: of all processes: the first for all tasks, the others for the last task alone
        cold: whether the seconds of first calls will be shown
        keep: keeps what a launch found, or knows it from a run that was stopped
    """
    base, others = jobs[:anchors], jobs[anchors:]
    beside = max(1, together - anchors)
    groups = [others[i : i + beside] for i in range(0, len(others), beside)] or [[]]
    found: dict[str, dict[str, Timings]] = {}
    tasks = list(time_budgets)
    for group in groups:
        everybody = [*base, *group]
        called = [each.label or each.name for each in everybody]
        measured: dict[str, list[dict[str, Timings]]] = {task: [] for task in tasks}
        for number in range(launches):
            # in another order each time: one that always follows the same other meets the caches as that leaves them
            order = everybody if number == 0 else random.Random(number).sample(everybody, len(everybody))
            budgets = {**time_budgets} if number == 0 else {}
            budgets[tasks[-1]] = time_budgets[tasks[-1]].of_one(launches)

            def run(
                order: Sequence[Job] = order, budgets: Mapping[str, TimeBudget] = budgets, first: bool = number == 0
            ) -> Any:
                with crew(order) as workers:
                    found = {
                        task: time_task(workers, task, budget, progress, cold and first)
                        for task, budget in budgets.items()
                    }
                return {task: {name: asdict(timings) for name, timings in of.items()} for task, of in found.items()}

            progress.launch(number + 1, launches, called)
            key = [called, anchors, [asdict(budget) for budget in time_budgets.values()], number, launches]
            for task, found_now in keep("launch", key, run).items():
                measured[task].append({name: Timings.from_json(timings) for name, timings in found_now.items()})
        for name in called:
            if name not in found:
                found[name] = {task: joined(measured[task], name, called[:anchors]) for task in tasks}
    return found


def joined(launches: Sequence[Mapping[str, Timings]], name: str, anchors: Sequence[str]) -> Timings:
    """Join a contender's timings over all launches, with its ratios to the anchors."""

    def whole(who: str) -> Timings:
        own = [launch[who] for launch in launches]
        return replace(
            own[0],
            seconds=[seconds for one in own for seconds in one.seconds],
            rounds=[rounds for one in own for rounds in one.rounds],
            recompiled=sum(one.recompiled for one in own),
            memory=max((one.memory for one in own), key=lambda peak: peak.bytes),
        )

    ours = whole(name)
    return replace(ours, ratios={anchor: ours.times_as_fast(whole(anchor)) for anchor in anchors})


def possible(seconds: Mapping[str, list[float]], task: str) -> tuple[dict[str, list[float]], int]:
    """Drop rounds where generating n tokens was no slower than generating one: the short run was preempted.

    Returns the remaining seconds by contender, and the number of rounds. Raises RuntimeError if no round remains.
    """
    good = [all(s > 0.0 for s in of_round) for of_round in zip(*seconds.values(), strict=True)]
    if not any(good):
        raise RuntimeError(f"{task}: in none of {len(good)} rounds did more tokens take longer than one: measure again")
    return {name: [s for s, kept in zip(own, good, strict=True) if kept] for name, own in seconds.items()}, sum(good)


def scenario_job(name: str, work: Workload, scenario: str, device: torch.device, again: bool) -> Job:
    """The job of a worker in a scenario."""
    prompt, new = text_shape(work, scenario)
    one = job(name, work, precision_of(name, work, device), device, torch.get_num_threads(), new)
    return replace(one, prompt=prompt, rows=ROWS.get(scenario, 1), label=f"{name} (again)" if again else "")


def time_task(
    workers: Mapping[str, Worker], task: str, time_budget: TimeBudget, progress: Progress, cold: bool = True
) -> dict[str, Timings]:
    """One task of one launch, without the ratios.

    Args:
        cold: whether first calls run in turn, because their times will be shown; else side by side

    The order is the same in every round, A B C A B C. In an order that turns back, a contender would sometimes follow
    itself, with its data still in the caches, and a mixture of the two has no meaningful median.

    Seconds per token: the difference between generating n tokens and one in the same round, divided by n - 1.
    """
    one = "prefill" if task in ("prefill", "per_token") else task
    calls = (one, "generation") if task == "per_token" else (one,)
    progress.task(task, workers)
    first = [take_turns(workers, call) if cold else all_at_once(workers, call) for call in calls]
    called_once = {name: worker.compiled() for name, worker in workers.items()}
    warm = [take_turns(workers, call) for call in calls]
    before = {name: worker.compiled() for name, worker in workers.items()}
    memory = {name: worker.peak() for name, worker in workers.items()}
    # what is shorter than the scheduler's time slice is done several times for one sample
    repeats = [max(1, min(MOST_CALLS, int(LEAST_SAMPLE / min(turn.values())))) for turn in warm]
    one_round = sum(seconds * k for turn, k in zip(warm, repeats, strict=True) for seconds in turn.values())
    rounds = rounds_within(time_budget.seconds * len(workers), one_round, time_budget.least, time_budget.most)
    progress.rounds(task, workers, rounds)
    samples: dict[str, list[list[float]]] = {name: [] for name in workers}
    if before == called_once and repeats == [1]:  # the warm round was like those that follow, and may be long
        samples = {name: [[turn[name] for turn in warm]] for name in workers}
    for number in range(1 + len(next(iter(samples.values()))), rounds + 1):
        progress.round(task, number)
        for name, worker in workers.items():
            samples[name].append([worker.time(call, k) for call, k in zip(calls, repeats, strict=True)])
    after = {name: worker.compiled() for name, worker in workers.items()}
    new = {name: worker.new for name, worker in workers.items()}
    seconds = {
        name: [s[0] if len(calls) == 1 else (s[1] - s[0]) / (new[name] - 1) for s in samples[name]] for name in workers
    }
    seconds, rounds = possible(seconds, task)
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
