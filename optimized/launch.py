"""A command as one of several processes of torchrun: agreement, output and exit.

Only the first process writes to disk and terminal. An error is printed once, by the process that had it, and ends all.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from typing import Any, NoReturn, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from optimized.backend import optimized_backend
from reference.cli.main import EXPECTED, Package, described, obey, read_options, status_of
from reference.training.devices import choose_device

T = TypeVar("T")
GLOO = "/gloo/"  # the folder of its source files


class Launched:
    """The processes of one torchrun, or of one on each of several machines.

    See `reference.training.processes.Processes`.
    """

    def __init__(self) -> None:
        """Join the process group, by the environment variables of torchrun."""
        # Handlers run last in, first out: this one runs after those of the modules that a command imports.
        atexit.register(self.skip_finalization)
        self.left = False  # whether all processes have finished
        self.local_rank = int(os.environ["LOCAL_RANK"])  # among those of this machine
        self.here = int(os.environ["LOCAL_WORLD_SIZE"])
        self.store, self.rank, self.world = next(rendezvous("env://"))
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        if gpus and self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo", store=self.store, rank=self.rank, world_size=self.world
        )

    def device(self, name: str, dtype: str) -> torch.device:
        """This process's device; each process of a machine takes its own GPU."""
        chosen = choose_device(name, dtype)
        if chosen.type != "cuda":
            return chosen
        if ":" in name:
            raise ValueError(f"--device {name} with {self.world} processes: give cuda, and each takes its own")
        gpus = torch.cuda.device_count()
        if self.here > gpus:
            raise ValueError(
                f"{self.here} processes on a machine with {gpus} GPU{'s' if gpus > 1 else ''}: start at most as many, "
                "or give --device cpu"
            )
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Inside, an error in one process ends all of them, with its message and exit status."""
        mine: tuple[int, str] | None = None  # status and message
        try:
            yield
        except EXPECTED as error:
            mine = status_of(error), described(error)
        except SystemExit as ended:  # unreadable options, or --help: the first process has printed it
            told = f"error: the options of process {self.rank} cannot be read: give every launcher the same"
            mine = int(ended.code or 0), "" if self.rank == 0 else told
        every = [one for one in self.gather(mine) if one is not None]
        if every:
            status, message = every[0]
            if self.rank == 0 and message:
                print(message, file=sys.stderr)
            raise SystemExit(status)

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise a ValueError in every process, naming the first value that is not the same in all of them."""
        with self.agreed():
            first = self.of_first(dict(values))
            for name in first.keys() | values.keys():
                mine, theirs = values.get(name), first.get(name)
                if mine != theirs:
                    raise ValueError(
                        f"{name} is {theirs} in the first process and {mine} in process {self.rank}: start all of "
                        "them on the same text and weights with the same options"
                    )

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: T) -> T:
        """The first process's value."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        first: T = values[0]
        return first

    # On the CPU even if the model is on a GPU: the result is needed there, and no GPU waits for it.

    def largest(self, number: int) -> int:
        """The maximum over all processes."""
        return int(reduced([number], torch.int64, dist.ReduceOp.MAX)[0])

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the processes, in double precision."""
        return [float(one) for one in reduced(list(numbers), torch.float64, dist.ReduceOp.SUM)]

    def fails_first(self) -> bool:
        """Whether this process is the first to fail; True for the first caller only."""
        try:
            return int(self.store.add("failed", 1)) == 1
        except RuntimeError:  # the process with the store is gone
            return True

    def leave(self, status: int) -> NoReturn:
        """Wait for the others, so that torchrun sees all processes end together, and end this process."""
        if status:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all processes end by themselves, each with this status
        self.largest(0)
        if status:
            end_now(status)
        dist.destroy_process_group()
        self.left = True
        sys.exit()

    def skip_finalization(self) -> None:
        """End a process that has left the others before Python's finalization.

        During finalization a torch thread may still wait for connections of the others, which raises SIGABRT.
        """
        if self.left:
            end_now(0)

    def fail(self, error: BaseException, to: TextIO) -> NoReturn:
        """End this process for an error of its own; the others then end because they lose it.

        Only the first process to fail prints its error: errors of the others are consequences.
        """
        known = isinstance(error, EXPECTED)
        if self.fails_first() and not isinstance(error, BrokenPipeError):  # the reader of the output is gone
            if known:
                print(described(error), file=to)
            elif is_lost_connection(error):
                print(f"error: process {self.rank} lost the others: one of them was ended from outside", file=to)
            else:
                print(f"error: process {self.rank} failed", file=to)
                traceback.print_exception(error, file=to)
        end_now(status_of(error) if known else 1)


def reduced(numbers: Sequence[float], dtype: torch.dtype, how: Any) -> Tensor:
    """Numbers reduced over the processes, elementwise."""
    tensor = torch.tensor(numbers, dtype=dtype)
    dist.all_reduce(tensor, how)
    return tensor


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error means that another process could not be reached."""
    # torch has a type for NCCL's errors alone. Gloo's are plain RuntimeErrors that begin with a place in its source,
    # "[.../gloo/transport/tcp/pair.cc:534]": that place, not the words after it, tells a lost connection from a bug.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and GLOO in str(error))


def end_now(status: int) -> NoReturn:
    """End the process without exit handlers, some of which wait for dead processes."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):  # closed, or its reader is gone
            if stream is not None:
                stream.flush()
    os._exit(status)


def main(package: Package, arguments: Sequence[str]) -> NoReturn:
    """`reference.cli.main.main` for one of several processes; ends the process."""
    processes, terminal = Launched(), sys.stderr
    with ExitStack() as silence:
        if processes.rank > 0:
            nowhere = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        try:
            try:
                with processes.agreed():
                    options = read_options(package, list(arguments))
                    backend = replace(optimized_backend(options, processes), program=package.program)
                status = obey(options, backend)
            except SystemExit as ended:  # agreed by all processes
                status = int(ended.code or 0)
            processes.leave(status)
        except SystemExit:  # by `leave`
            raise
        except BaseException as error:
            processes.fail(error, to=terminal)
