"""The training loop: steps, with a log line, a validation and a checkpoint at their intervals.

The loop's only state is the model, the optimizer and the step number. The batch of step s is a function of (seed, s),
and its dropout of (seed, s, rank). So a resumed run takes the same steps as one that never stopped, and validation or
sampling in between changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reference.config import GPTConfig
from reference.gpt import GPT
from reference.training.devices import send
from reference.training.evaluation import Batch, mean_loss, shared
from reference.training.processes import ALONE, Processes

Record = dict[str, Any]  # a line of the log: "step" and measurements


class Step(Protocol):
    """One training step, as `build_step` makes it."""

    gradient_norm: Tensor

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor: ...


class Source(Protocol):
    """Training batches: a pure function of the step, counted from 0, the rank and the world size."""

    def at(self, step: int, rank: int, world: int) -> Batch: ...


class Observer(Protocol):
    """Receives the loop's reports."""

    def stepped(self, done: int) -> None:
        """Called after each step; `done` steps have been taken."""

    def recorded(self, record: Record) -> None:
        """Called after each log interval and each validation."""


@dataclass(frozen=True)
class Plan:
    """The length of a run and its intervals, in steps."""

    steps: int
    seed: int
    learning_rate: Callable[[int], float]
    eval_interval: int
    log_interval: int
    checkpoint_interval: int


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is infinite or NaN."""


class _Stopped(Exception):
    """The user asked to stop in the middle of a validation."""


def train(
    model: nn.Module,
    step: Step,
    batches: Source,
    validation: Callable[[], Iterable[Batch]],
    plan: Plan,
    *,
    save: Callable[[int], object],
    observer: Observer,
    done: int = 0,
    validated: Collection[int] = (),
    stopping: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> int:
    """Take the steps from `done` to `plan.steps`; returns the number of steps taken in total.

    Args:
        model: trained in place
        step: training step of this model, whose optimizer has taken `done` steps
        batches: `at(s, rank, world)` for this process's share of step s, on any device
        validation: makes a new pass over the validation batches
        save: writes a checkpoint; called with the number of steps taken, at each checkpoint interval and at the end
        validated: steps whose validation loss is known already
        stopping: asked after each step; True ends the run there, with a checkpoint
        processes: share the steps and the validations; `step` and `stopping` give the same answer in each

    Raises NonFiniteError before saving anything computed after a loss or gradient that is not finite: all are checked
    at each log interval. Logging, validation and checkpoints read from the device; a step does not.
    """
    device = next(model.parameters()).device
    known = set(validated)

    def validate() -> None:
        if done not in known and (done % plan.eval_interval == 0 or done == plan.steps):
            loss, tokens = mean_loss(model, unless(stopping, shared(validation(), processes)), processes)
            if not math.isfinite(loss):
                raise NonFiniteError(f"step {done}: the validation loss is {loss}")
            observer.recorded({"step": done, "validation_loss": loss, "validation_tokens": tokens})
            known.add(done)

    def save_sound() -> None:
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():  # the update itself overflowed
                raise NonFiniteError(f"step {done}: {name} is not finite any more")
        save(done)

    model.train()
    try:
        validate()  # before the first step, or where a run stopped before it could
        if done == 0:
            save_sound()  # a folder that cannot be written to shows itself now and not after hours
        interval = Interval(done)
        while done < plan.steps and not stopping():
            ids, targets = batches.at(done, processes.rank, processes.world)  # (B / world, T) twice
            with step_randomness(plan.seed, done, device, processes.rank):
                loss = step(send(ids, device), send(targets, device))
            done += 1
            interval.add(loss, step.gradient_norm, ids.numel() * processes.world)
            observer.stepped(done)

            saving = done % plan.checkpoint_interval == 0
            if saving or done % plan.log_interval == 0 or done % plan.eval_interval == 0:
                observer.recorded(interval.record(plan.learning_rate(done - 1)))
                validate()
                if saving and done < plan.steps:
                    save_sound()
                interval = Interval(done)
        if interval.losses:
            observer.recorded(interval.record(plan.learning_rate(done - 1)))
        validate()
    except _Stopped:
        pass
    save_sound()
    return done


class Interval:
    """The steps since the last line of the log.

    Losses stay on the device until the line is written, so that no step waits for them. The time excludes validations
    and checkpoints, which lie between two intervals.
    """

    def __init__(self, done: int) -> None:
        self.done = done
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.tokens = 0
        self.start = time.perf_counter()

    def add(self, loss: Tensor, gradient_norm: Tensor, tokens: int) -> None:
        """Add one step."""
        self.losses.append(loss)
        self.norms.append(gradient_norm)
        self.tokens += tokens

    def record(self, learning_rate: float) -> Record:
        """The record of the interval; NonFiniteError for a loss or norm that is not finite."""
        losses, norms = torch.stack(self.losses).tolist(), torch.stack(self.norms).tolist()
        seconds = time.perf_counter() - self.start  # after the numbers have arrived from the device
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=self.done + 1):
            if not math.isfinite(loss):
                raise NonFiniteError(f"step {number}: the loss is {loss}")
            if not math.isfinite(norm):
                raise NonFiniteError(f"step {number}: the gradient's norm is {norm}, the loss {loss:.4f}")
        return {
            "step": self.done + len(losses),
            "loss": math.fsum(losses) / len(losses),  # mean over the interval's steps
            "learning_rate": learning_rate,  # of its last step, as the next one
            "gradient_norm": norms[-1],
            "tokens_per_second": round(self.tokens / seconds, 1),
        }


def unless(stopping: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, one by one, until the user asks to stop."""
    for batch in batches:
        if stopping():
            raise _Stopped
        yield batch


def initial_weights(config: GPTConfig, seed: int) -> dict[str, Tensor]:
    """Fresh weights in the canonical layout, float32 on the CPU: a function of the shape and the seed alone.

    Independent of the run's device, precision and package.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("weights", seed))
        return GPT(config).state_dict()


@contextmanager
def step_randomness(seed: int, step: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Inside, seed torch's global generators by the arguments; afterwards restore them.

    Ranks draw different numbers, or all of them would drop the same places of their rows.
    """
    forked = []  # beside the CPU; of mps, torch cannot fork the generator
    if device.type in ("cuda", "xpu"):
        current = torch.get_device_module(device.type).current_device()
        forked = [current if device.index is None else device.index]
    with torch.random.fork_rng(devices=forked, device_type=device.type if forked else "cuda"):
        torch.manual_seed(derived_seed(f"dropout of rank {rank}" if rank else "dropout", seed, step))
        yield


def derived_seed(purpose: str, seed: int, number: int = 0) -> int:
    """A seed below 2^32 for one use of the user's seed: different for each of 2^32 numbers, unrelated between uses.

    torch's CPU generator uses only 32 bits of its seed. Hashes of that size would soon collide in a long run, so only
    the start is hashed, and the number is added.
    """
    start = int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "little")
    return (start + number) % 2**32
