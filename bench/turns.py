"""One sitting: every contender in a process of its own, all of them in turn, task after task.

What comes out for each contender and task: the seconds of every round, of a first call, of compiling; the most memory
that was held; and how many times as fast it is as the base, from times that were taken next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bench.passes import precision_of
from bench.peak import Peak
from bench.suite import ROWS, SITTINGS, sitting_bytes, text_shape
from bench.throughput import Ratio, ratio, rounds_within
from bench.workers import Compiled, Job, Worker, crew, job, take_turns
from bench.workloads import Workload

Tell = Callable[[str], None]

LEAST_SAMPLE, MOST_CALLS = 0.03, 50  # seconds of the fastest; calls


@dataclass(frozen=True)
class Turns:
    """What was measured of one contender in one task."""

    seconds: list[float]  # of the rounds: entry i of all contenders that sat together is from round i
    first: float  # of the first call, which compiles and allocates
    compiled: Compiled  # until the rounds began
    recompiled: int  # graphs that were made during the rounds, which there must be none of
    memory: Peak
    ratios: dict[str, Ratio]  # an anchor's time over ours: how many times as fast


@dataclass(frozen=True)
class Pace:
    """How long to measure."""

    seconds: float  # for a task of one contender, about
    least: int  # rounds
    most: int


def sit(
    work: Workload,
    sitting: str,
    names: Sequence[str],
    device: torch.device,
    pace: Pace,
    tell: Tell,
    free: int | None = None,
    anchors: int = 1,
) -> dict[str, dict[str, Turns]]:
    """Hold a sitting; returns by contender, then by task.

    Args:
        names: who takes part, each proven. A name may come twice: the second is then called "NAME (again)"
        free: bytes of memory: where not all fit side by side, they come in groups; None if that cannot be told
        anchors: how many of them, from the first on, are in every group: those that ratios are to
    """
    jobs = [sitting_job(name, work, sitting, device, again=name in names[:n]) for n, name in enumerate(names)]
    base, others = jobs[:anchors], jobs[anchors:]
    fitting = len(jobs) if free is None else int(0.9 * free / sitting_bytes(work, sitting))
    together = max(1, fitting - anchors)
    groups = [others[i : i + together] for i in range(0, len(others), together)] or [[]]
    found: dict[str, dict[str, Turns]] = {}
    for group in groups:
        tell(f"starting {', '.join(each.label or each.name for each in (*base, *group))}")
        with crew([*base, *group]) as workers:
            measured = {task: hold(workers, task, pace, tell, anchors) for task in SITTINGS[sitting]}
        for name in workers:
            if name not in found:
                found[name] = {task: turns[name] for task, turns in measured.items()}
    return found


def sitting_job(name: str, work: Workload, sitting: str, device: torch.device, again: bool) -> Job:
    """What a worker of a sitting is to build."""
    prompt, new = text_shape(work)
    one = job(name, work, precision_of(name), device, torch.get_num_threads(), new)
    return replace(one, prompt=prompt, rows=ROWS.get(sitting, 1), label=f"{name} (again)" if again else "")


def hold(workers: Mapping[str, Worker], task: str, pace: Pace, tell: Tell, anchors: int = 1) -> dict[str, Turns]:
    """One task of a sitting.

    Always in the same order, A B C A B C. Going backwards every other round would have everybody follow itself now and
    then, with its data still in the caches, and times of two kinds have no meaningful median.

    A token costs what a text of n tokens takes longer than one of a single token, over n - 1; both of the same round.
    """
    one = "prefill" if task in ("prefill", "per_token") else task
    calls = (one, "generation") if task == "per_token" else (one,)
    tell(f"{task} of {', '.join(workers)}: first calls")
    first = [take_turns(workers, call, 1) for call in calls]
    warm = [take_turns(workers, call, 1) for call in calls]
    before = {name: worker.compiled() for name, worker in workers.items()}
    memory = {name: worker.peak() for name, worker in workers.items()}
    # what is shorter than the scheduler's time slice is done several times for one sample
    repeats = [max(1, min(MOST_CALLS, int(LEAST_SAMPLE / min(t[0] for t in turn.values())))) for turn in warm]
    one_round = sum(times[0] * k for turn, k in zip(warm, repeats, strict=True) for times in turn.values())
    rounds = rounds_within(pace.seconds * len(workers), one_round, pace.least, pace.most)
    tell(f"{task} of {', '.join(workers)}: {rounds} rounds")
    samples: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            samples[name].append([worker.time(call, k) for call, k in zip(calls, repeats, strict=True)])
    after = {name: worker.compiled() for name, worker in workers.items()}
    new = {name: worker.new for name, worker in workers.items()}
    seconds = {
        name: [s[0] if len(calls) == 1 else max((s[1] - s[0]) / (new[name] - 1), 1e-9) for s in samples[name]]
        for name in workers
    }
    first_ones = list(workers)[:anchors]
    return {
        name: Turns(
            seconds=seconds[name],
            first=first[-1][name][0],
            compiled=before[name],
            recompiled=after[name].graphs - before[name].graphs,
            memory=memory[name],
            ratios={anchor: ratio(seconds[anchor], seconds[name]) for anchor in first_ones},
        )
        for name in workers
    }
