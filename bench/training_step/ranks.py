"""Run a user's training step in several processes, as torchrun starts them, and record each rank's."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.training_step.hyperparameters import Hyperparameters
from bench.training_step.record import STEPS, Recorded, record
from bench.user_code.load_function import load_function
from bench.user_code.refused import Refused

WAIT = 60.0  # seconds that a rank waits for the others in an exchange
LIMIT = 400.0  # seconds until processes that neither end nor exchange anything are ended
GLOO = "gloo/transport"  # the folder of its source files, which its messages name
Shapes = Sequence[tuple[int, int]]


class OfRank(Exception):
    """An exception in another process: its traceback as text."""


def record_ranks(spec: str, given: Hyperparameters, runs: Sequence[Shapes], seed: int, ranks: int) -> list[Recorded]:
    """Run a step in one process per rank, joined by gloo.

    Args:
        spec: FILE.py:FUNCTION of `build_step`, which each process loads
        runs: for each run, (B, T) of a rank's micro-batches; every second rank has them in the reverse order

    Returns for each run the first rank's record, with the micro-batches of all. Raises Refused, one line, if a rank
    cannot be run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=work, args=(rank, ranks, spec, given, runs, seed, folder), daemon=True)
            for rank in range(ranks)
        ]
        try:
            for process in processes:
                process.start()
            check_ended(processes, folder)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    return [joined([Recorded(**one[run]) for one in found]) for run in range(len(runs))]


def check_ended(processes: Sequence[Any], folder: Path) -> None:
    """Wait for all processes. Raises Refused with the words of the first that failed."""
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    while running:
        ended = wait(list(running), LIMIT)
        if not ended:
            raise Refused(f"step: rank {min(running.values())} has not ended after {LIMIT:.0f} s")
        ranks = [running.pop(sentinel) for sentinel in ended]
        for rank in ranks:
            processes[rank].join()
        failed = {rank: words_of(folder, rank, processes[rank].exitcode) for rank in ranks if processes[rank].exitcode}
        if failed:
            # a rank that only lost the others says less
            rank, (words, trace) = min(failed.items(), key=lambda one: GLOO in one[1][0])
            raise Refused(f"{words} (rank {rank} of {len(processes)})") from OfRank(trace)


def words_of(folder: Path, rank: int, status: int) -> tuple[str, str]:
    """Why a rank failed, in one line, and its traceback."""
    file = folder / f"{rank}.json"
    if not file.exists():
        return f"step: a process ended with status {status}", ""
    words, trace = json.loads(file.read_text(encoding="utf-8"))
    return words, trace


def work(
    rank: int, world: int, spec: str, given: Hyperparameters, runs: Sequence[Shapes], seed: int, folder: Path
) -> None:  # pragma: no cover  # in a process of its own
    """One rank: run the step and write its record, or one line why not."""
    os.dup2(2, 1)  # what the user's code prints is no part of the report
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{(folder / 'store').as_posix()}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=WAIT),
    )
    try:
        build_step: Callable[..., Any] = load_function(spec, "build_step", "step")
        found = [record(build_step, given, shapes[:: (-1) ** rank], seed, rank) for shapes in runs]
        torch.save([vars(one) for one in found], folder / f"{rank}.pt")
    except ValueError as error:
        words = json.dumps([str(error), traceback.format_exc()])
        (folder / f"{rank}.json").write_text(words, encoding="utf-8")
        os._exit(1)  # a process group whose other ranks wait is not left in order
    with suppress(RuntimeError):
        dist.destroy_process_group()


def joined(found: Sequence[Recorded]) -> Recorded:
    """The first rank's record, with the micro-batches of all ranks, rank after rank."""
    first = found[0]
    return replace(
        first,
        gradients=[[part for one in found for part in one.gradients[step]] for step in range(STEPS)],
        means=[[mean for one in found for mean in one.means[step]] for step in range(STEPS)],
        counts=[count for one in found for count in one.counts],
        ranks=len(found),
        apart=[max(apart(first, one, step) for one in found) for step in range(STEPS)],
    )


def apart(first: Recorded, other: Recorded, step: int) -> float:
    """Distance of two ranks' weights after a step, relative to the first's update."""
    update = torch.linalg.vector_norm(first.weights[step + 1] - first.weights[step])
    distance: Tensor = torch.linalg.vector_norm(other.weights[step + 1] - first.weights[step + 1])
    return float(distance / update) if bool(distance) else 0.0
