"""Worker processes, one per contender, timed in turn.

So one contender's changes to its process (threads, the memory allocator, compiled code, a library's caches) do not
affect another, and the system knows the peak memory of each.

    with crew([job("reference", ...), job("optimized", ...)]) as workers:
        seconds = in_turn(workers, "training_step")

A worker builds its contender with random weights, as speed does not depend on them. It sleeps until it is asked, and
ends with the process that started it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from bench.contenders import build_in, find, import_what_is_needed, own_precision
from bench.numerics.inputs import random_batch
from bench.timing import child_process
from bench.timing.child_process import say
from bench.timing.peak_memory import Peak, forget_highest, highest
from bench.timing.ratios import synchronise
from bench.workloads.scenarios import ROWS, text_shape
from bench.workloads.workload import Workload
from reference.config import GPTConfig


@dataclass(frozen=True)
class Compiled:
    """Graphs that torch.compile has compiled, and its seconds."""

    graphs: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What a worker builds."""

    name: str  # of the contender
    config: GPTConfig
    batch: int
    time: int
    precision: str
    device: str
    threads: int
    prompt: int  # tokens of the prompt
    new: int  # tokens to generate
    rows: int  # texts in the batch
    label: str  # its name, another one for a contender that takes part twice


def job(name: str, work: Workload, scenario: str, precision: str, device: torch.device, again: bool = False) -> Job:
    """What a contender's worker builds for a scenario."""
    prompt, new = text_shape(work, scenario)
    return Job(
        name=name,
        config=work.config,
        batch=work.batch,
        time=work.time,
        precision=own_precision(precision, name, work.config, device),
        device=str(device),
        threads=torch.get_num_threads(),
        prompt=prompt,
        new=new,
        rows=ROWS.get(scenario, 1),
        label=f"{name} (again)" if again else name,
    )


class Worker:
    """One process; call `ready` before `time` and `peak`."""

    def __init__(self, job: Job) -> None:
        self.name, self.new = job.name, job.new
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by stop
        self.process = child_process.launch(
            f"{__name__}:serve", asdict(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )

    def ready(self) -> None:
        """Wait until the contender is built."""
        self.answer()

    def time(self, task: str, calls: int = 1) -> float:
        """Run a task `calls` times; returns the mean seconds per call, including the device's work."""
        return float(self.ask(f"{task} {calls}" if calls > 1 else task)["seconds"]) / calls

    def peak(self) -> Peak:
        """Peak memory so far, above the baseline of interpreter and libraries."""
        return Peak(**self.ask("peak"))

    def compiled(self) -> Compiled:
        """What torch.compile has done so far."""
        return Compiled(**self.ask("compiled"))

    def ask(self, what: str) -> dict[str, Any]:
        self.send(what)
        return self.answer()

    def send(self, what: str) -> None:
        """Send a request; `answer` waits for its result."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `answer` reports why

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] | None = next(child_process.answers(self.process.stdout), None)
        if found is not None:
            return found
        status = self.process.wait()
        self.errors.seek(0)
        raise child_process.failure(f"timing {self.name}", status, self.errors.read())

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


@contextmanager
def crew(jobs: Sequence[Job]) -> Iterator[dict[str, Worker]]:
    """Ready workers by name; on exit they are ended, also after an error."""
    workers: dict[str, Worker] = {}
    try:
        for each in jobs:
            workers[each.label] = Worker(each)
        for worker in workers.values():
            worker.ready()
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def in_turn(workers: Mapping[str, Worker], task: str) -> dict[str, float]:
    """Run a task once in each worker, one after the other; returns seconds by worker."""
    return {name: worker.time(task) for name, worker in workers.items()}


def all_at_once(workers: Mapping[str, Worker], task: str) -> dict[str, float]:
    """Run a task in all workers at once, to warm up: a compiler uses one core. The times are not comparable."""
    for worker in workers.values():
        worker.send(task)
    return {name: float(worker.answer()["seconds"]) for name, worker in workers.items()}


def tasks(job: Job) -> Iterator[dict[str, Callable[[], object]]]:
    """In the worker: import and make inputs, yield {} for the baseline to be read, then build and yield the tasks."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    import_what_is_needed(job.name)
    contender = find(job.name)
    ids, targets = (t.to(device) for t in random_batch(job.config, job.batch, job.time))
    prompt = random_batch(job.config, job.rows, job.prompt)[0].to(device)
    yield {}
    model = build_in(job.precision, job.name, job.config, None, device)
    step = contender.build_step(model)

    def forward() -> object:
        with torch.no_grad():
            return model.eval()(ids)

    def loss_and_gradient() -> object:
        model.train().zero_grad(set_to_none=True)
        loss: Any = model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return loss.backward()

    yield {
        "forward": forward,
        "loss_and_gradient": loss_and_gradient,
        "training_step": lambda: (model.train(), step(ids, targets)),
        "prefill": lambda: contender.generate(model.eval(), prompt, 1),
        "generation": lambda: contender.generate(model.eval(), prompt, job.new),
    }


def serve(asked: dict[str, Any]) -> None:
    """The worker's loop: build, answer, then run a task for each line of standard input.

    Args:
        asked: a `Job` as plain values
    """
    job = Job(**{**asked, "config": GPTConfig.from_dict(asked["config"])})
    stages = tasks(job)
    next(stages)
    forget_highest()
    baseline = psutil.Process().memory_info().rss
    known, device = next(stages), torch.device(job.device)
    sync = synchronise(device)
    say({})
    for line in sys.stdin:
        what = line.strip()
        if what == "peak":
            say(asdict(peak_so_far(device, baseline)))
            continue
        if what == "compiled":
            say(asdict(compiled_so_far()))
            continue
        task, _, calls = what.partition(" ")
        call, times = known[task], range(int(calls or 1))
        sync()
        start = time.perf_counter()
        for _ in times:
            call()
        sync()
        say({"seconds": time.perf_counter() - start})


def peak_so_far(device: torch.device, baseline: int) -> Peak:
    """Peak memory of this process; of the device, if it counts its own."""
    if device.type == "cuda":
        return Peak(torch.cuda.max_memory_allocated(device), baseline, "device")
    if device.type == "mps":
        return Peak(torch.mps.driver_allocated_memory(), baseline, "device")
    return Peak(max(0, highest() - baseline), baseline, "resident")


def compiled_so_far() -> Compiled:
    """Read the counters of torch's compiler; zero if it was never loaded."""
    if "torch._dynamo" not in sys.modules:
        return Compiled(0, 0.0)
    from torch._dynamo.utils import calculate_time_spent, counters

    return Compiled(int(counters["stats"]["unique_graphs"]), float(calculate_time_spent().get("total_wall_time", 0.0)))
