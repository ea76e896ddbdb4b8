"""One process of a launch, in this process: how it joins, what it prints, how it ends.

tests/distributed has several, under torchrun.
"""

from __future__ import annotations

import errno
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from optimized import launch
from optimized.launch import Launched, end_now, is_lost_connection, main

CPU = torch.device("cpu")


class Ended(BaseException):
    """The process would have ended here."""


def a_process(rank: int = 1, world: int = 2, **more: Any) -> Launched:
    """One of several processes, without a process group."""
    process = Launched.__new__(Launched)
    vars(process).update({"rank": rank, "world": world, "local_rank": rank, "here": world, **more})
    return process


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    """The only process of a launch, as torchrun would start it."""
    environment = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 4, "LOCAL_WORLD_SIZE": 6}
    for name, value in {
        **environment,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield Launched()
    dist.destroy_process_group()


# --- joining


def test_rank_and_world_come_from_the_environment(joined: Launched) -> None:
    assert (joined.rank, joined.world, joined.local_rank, joined.here) == (0, 1, 4, 6)
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    joined.store.set("name", "value")
    assert joined.store.get("name") == b"value"


@pytest.mark.parametrize(
    ("cuda", "nccl", "gpus", "local_rank", "takes", "backend"),
    [
        (True, True, 4, 3, [3], "cpu:gloo,cuda:nccl"),
        (True, True, 3, 3, [], "cpu:gloo,cuda:nccl"),
        (True, False, 4, 3, [], "gloo"),
        (False, True, 4, 3, [], "gloo"),
    ],
)
def test_it_takes_its_own_gpu_if_torch_can_exchange_over_gpus(
    cuda: bool,
    nccl: bool,
    gpus: int,
    local_rank: int,
    takes: list[int],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    groups: list[object] = []
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: groups.append((backend, how)))
    monkeypatch.setattr(launch, "rendezvous", lambda url: iter([("the store", 5, 8)]))
    Launched()
    assert taken == takes
    assert groups == [(backend, {"store": "the store", "rank": 5, "world_size": 8})]


# --- its device


def chosen(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int) -> list[object]:
    """Record the arguments of `choose_device`, which returns a fixed device."""
    asked: list[object] = []

    def choose(name: str, dtype: str) -> torch.device:
        asked.append((name, dtype))
        return torch.device(device)

    monkeypatch.setattr(launch, "choose_device", choose)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    return asked


def test_of_other_devices_than_gpus_there_is_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = chosen(monkeypatch, "cpu", gpus=0)
    assert a_process(here=2).device("cpu:0", "float64") == CPU
    assert asked == [("cpu:0", "float64")]


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_of_gpus_it_takes_its_own_even_the_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch, "cuda", gpus=2)
    assert a_process(here=2, local_rank=1).device(name, "float32") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("name", "gpus", "says"),
    [
        ("cuda:1", 4, "--device cuda:1 with 3 processes: give cuda, and each takes its own"),
        ("cuda", 2, "3 processes on a machine with 2 GPUs: start at most as many, or give --device cpu"),
        ("cuda", 1, "3 processes on a machine with 1 GPU: start at most as many, or give --device cpu"),
    ],
)
def test_gpus_that_cannot_be_shared_are_refused(
    name: str, gpus: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, name, gpus)
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        a_process(world=3, here=3).device(name, "float32")


# --- what all agree on


class Told(Launched):
    """One of three processes: records its messages; those of the others are fixed."""

    def __init__(self, rank: int = 1, others: tuple[Any, ...] = (None, None), first: Any = None) -> None:
        self.rank, self.world, self.others, self.first = rank, 3, others, first
        self.told: list[object] = []

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)
        return [*self.others[: self.rank], value, *self.others[self.rank :]]

    def of_first(self, value: Any) -> Any:
        self.told.append(value)
        return value if self.rank == 0 else self.first


def test_nothing_is_said_where_nothing_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    process = Told()
    with process.agreed():
        pass
    assert process.told == [None]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "mine"),
    [
        (ValueError("no such\ncorpus"), (2, "error: no such corpus")),
        (OSError(errno.ENOSPC, "No space left"), (1, "error: No space left")),
        (KeyboardInterrupt(), (130, "\nstopped")),
        (SystemExit(2), (2, "error: the options of process 1 cannot be read: give every launcher the same")),
        (SystemExit(None), (0, "error: the options of process 1 cannot be read: give every launcher the same")),
    ],
)
def test_what_goes_wrong_here_is_told_to_all_and_said_by_the_first(
    error: BaseException, mine: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    process = Told()
    with pytest.raises((SystemExit, type(error))) as ended, process.agreed():
        raise error
    assert process.told == [mine]
    assert isinstance(ended.value, SystemExit)
    assert ended.value.code == mine[0]
    assert capsys.readouterr() == ("", ""), "process 1 says nothing"
    with pytest.raises(SystemExit) as ended, Told(rank=0, others=(mine, (7, "later"))).agreed():
        pass
    assert ended.value.code == mine[0]
    assert capsys.readouterr() == ("", mine[1] + "\n")


def test_the_first_process_prints_nothing_more_on_options_that_it_could_not_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = Told(rank=0)
    with pytest.raises(SystemExit) as ended, process.agreed():
        raise SystemExit(2)
    assert (ended.value.code, process.told) == (2, [(2, "")])
    assert capsys.readouterr() == ("", "")


def test_a_bug_is_not_agreed_on() -> None:
    process = Told()
    with pytest.raises(RuntimeError, match="a bug"), process.agreed():
        raise RuntimeError("a bug")
    assert process.told == []


def test_equal_values_pass() -> None:
    process = Told(first={"seed": 1, "text": "x"})
    process.check_same({"text": "x", "seed": 1})
    assert process.told == [{"seed": 1, "text": "x"}, None], "compared with the first one's, and nothing went wrong"


@pytest.mark.parametrize(
    ("first", "mine", "says"),
    [
        ({"text": "x", "seed": 1}, {"text": "x", "seed": 2}, "seed is 1 in the first process and 2"),
        ({"text": "x"}, {"text": "x", "seed": 2}, "seed is None in the first process and 2"),
        ({"text": "x", "seed": 1}, {"text": "x"}, "seed is 1 in the first process and None"),
    ],
)
def test_a_value_that_differs_is_named(first: dict[str, Any], mine: dict[str, Any], says: str) -> None:
    process = Told(first=first)
    with pytest.raises(SystemExit) as ended:
        process.check_same(mine)
    assert ended.value.code == 2
    assert process.told[-1] == (
        2,
        f"error: {says} in process 1: start all of them on the same text and weights with the same options",
    )


# --- reductions


def test_alone_everything_is_its_own(joined: Launched) -> None:
    assert joined.gather({"a": 1}) == [{"a": 1}]
    assert joined.of_first("mine") == "mine"
    assert joined.largest(2**53 + 1) == 2**53 + 1
    assert joined.sums(0.1, 2) == [0.1, 2.0], "in double precision"


def test_numbers_are_put_together_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(tensor: Tensor, how: Any) -> None:
        other = torch.tensor([5, 1][: len(tensor)], dtype=tensor.dtype)
        tensor.copy_({dist.ReduceOp.MAX: torch.maximum, dist.ReduceOp.SUM: torch.add}[how](tensor, other))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    process = a_process()
    assert (process.largest(3), process.largest(7)) == (5, 7)
    assert process.sums(0.25, 4.0) == [5.25, 5.0]


def test_the_values_of_all_are_in_the_order_of_their_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather(values: list[Any], mine: str) -> None:
        assert values == [None, None, None]
        values[:] = ["first", mine, "last"]

    def broadcast(values: list[Any], src: int) -> None:
        assert src == 0
        values[0] = f"the first one's instead of {values[0]}"

    monkeypatch.setattr(dist, "all_gather_object", all_gather)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    process = a_process(world=3)
    assert process.gather("mine") == ["first", "mine", "last"]
    assert process.of_first("mine") == "the first one's instead of mine"


# --- ending


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records the steps that end a process; the process stays."""
    done: list[object] = []

    def end(status: int) -> None:
        done.append(f"ended with {status}")
        raise Ended

    monkeypatch.setattr(launch, "end_now", end)
    return done


@pytest.mark.parametrize(
    ("status", "does"),
    [
        (0, ["waited for the others", "left the group"]),
        (2, [(signal.SIGTERM, signal.SIG_IGN), "waited for the others", "ended with 2"]),
    ],
)
def test_it_waits_for_the_others_before_it_ends(
    status: int, does: list[object], ends: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_reduce(tensor: Tensor, how: object) -> None:
        ends.append("waited for the others")

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    ours = SimpleNamespace(signal=lambda *what: ends.append(what), SIGTERM=signal.SIGTERM, SIG_IGN=signal.SIG_IGN)
    monkeypatch.setattr(launch, "signal", ours)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ends.append("left the group"))
    with pytest.raises(Ended if status else SystemExit) as ended:
        a_process().leave(status)
    assert ends == does
    assert status or ended.value.code is None  # type: ignore[attr-defined]


def test_a_process_that_has_left_the_others_skips_the_end_of_python_and_one_that_has_not_does_not(
    joined: Launched, ends: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "left", False)  # afterwards too, or it would end the tests with status 0
    joined.skip_finalization()
    assert ends == []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with pytest.raises(SystemExit):
        joined.leave(0)
    with pytest.raises(Ended):
        joined.skip_finalization()
    assert ends == ["ended with 0"]


FAILURES: list[tuple[BaseException, int, str]] = [
    (ValueError("no such corpus"), 2, "error: no such corpus\n"),
    (KeyboardInterrupt(), 130, "\nstopped\n"),
    (BrokenPipeError(), 1, ""),
    (dist.DistError("lost"), 1, "error: process 1 lost the others: one of them was ended from outside\n"),
    (RuntimeError("a bug"), 1, "error: process 1 failed\nRuntimeError: a bug\n"),
]


@pytest.mark.parametrize(("error", "status", "says"), FAILURES, ids=lambda one: type(one).__name__)
def test_the_first_to_fail_says_why_to_the_terminal(
    error: BaseException, status: int, says: str, ends: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal, process = io.StringIO(), a_process(store=dist.HashStore())
    with pytest.raises(Ended):
        process.fail(error, to=terminal)
    assert terminal.getvalue() == says
    assert ends == [f"ended with {status}"]
    with pytest.raises(Ended):
        process.fail(error, to=terminal)
    assert terminal.getvalue() == says, "the second to fail says nothing"
    assert ends == [f"ended with {status}"] * 2
    assert capsys.readouterr() == ("", "")


def test_where_the_store_is_gone_each_speaks_for_itself() -> None:
    def gone(name: str, by: int) -> int:
        raise RuntimeError("connection reset")

    assert a_process(store=SimpleNamespace(add=gone)).fails_first() is True


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistError("store"), True),
        (dist.DistNetworkError("store"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("shapes differ"), False),
        (RuntimeError("tensors of a gloo group differ in shape"), False),
        (ValueError("gloo"), False),
    ],
)
def test_a_lost_connection_is_told_from_a_bug(error: BaseException, lost: bool) -> None:
    assert is_lost_connection(error) is lost


def test_the_end_flushes_every_stream_that_is_there_and_takes_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def stream(name: str, error: Exception | None = None) -> Any:
        def flush() -> None:
            done.append(name)
            if error is not None:
                raise error

        return SimpleNamespace(flush=flush)

    streams = {
        "stdout": stream("out", OSError("nobody reads")),
        "stderr": stream("err", ValueError("closed")),
        "__stdout__": None,
        "__stderr__": stream("true err"),
    }
    monkeypatch.setattr(launch, "sys", SimpleNamespace(**streams))
    monkeypatch.setattr(launch, "os", SimpleNamespace(_exit=done.append))
    end_now(3)
    assert done == ["out", "err", "true err", 3]


# --- a command


class Processes:
    """Stands in for the launch: keeps how the command ended, and where a failure is printed."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ended: list[object] = []
        self.told_to: object = None
        self.agreed = nullcontext

    def leave(self, status: int) -> None:
        self.ended.append(status)

    def fail(self, error: BaseException, to: object) -> None:
        self.ended.append(error)
        self.told_to = to


@dataclass(frozen=True)
class Typed:
    """The part of a package and of its backend that holds the typed program."""

    program: str


def run_command(
    monkeypatch: pytest.MonkeyPatch, rank: int, command: Callable[[], int]
) -> tuple[list[object], str, str]:
    """Run `main` with a given command; returns its end and both output streams."""
    processes, out, err = Processes(rank), io.StringIO(), io.StringIO()

    def read(package: object, arguments: object) -> str:
        assert (package, arguments) == (Typed("paritygpt"), ["train", "--steps", "3"])
        return "options"

    def backend(options: object, others: object) -> Typed:
        assert (options, others) == ("options", processes)
        return Typed("python -m optimized")

    def obey(options: object, backend: object) -> int:
        assert (options, backend) == ("options", Typed("paritygpt")), "what the user typed is what is advised"
        return command()

    monkeypatch.setattr(launch, "Launched", lambda: processes)
    monkeypatch.setattr(launch, "read_options", read)
    monkeypatch.setattr(launch, "optimized_backend", backend)
    monkeypatch.setattr(launch, "obey", obey)
    package: Any = Typed("paritygpt")
    with redirect_stdout(out), redirect_stderr(err):
        main(package, ("train", "--steps", "3"))
        assert (sys.stdout, sys.stderr) == (out, err)
    if isinstance(processes.ended[0], BaseException):
        assert processes.told_to is err, "a failure has to be told to the terminal"
    return processes.ended, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(("rank", "heard"), [(0, ("out", "err")), (1, ("", "")), (2, ("", ""))])
def test_the_first_process_alone_is_heard(rank: int, heard: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> int:
        sys.stdout.write("out")
        sys.stderr.write("err")
        return 1

    ended, *written = run_command(monkeypatch, rank, command)
    assert ended == [1]
    assert tuple(written) == heard


@pytest.mark.parametrize(("code", "status"), [(2, 2), (None, 0), (0, 0), (130, 130)])
def test_an_end_that_was_agreed_on_is_waited_for(
    code: int | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> int:
        raise SystemExit(code)

    assert run_command(monkeypatch, 0, command)[0] == [status]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()], ids=["ValueError", "Ctrl-C"])
def test_any_other_end_is_a_failure_of_this_process_told_to_the_terminal(
    rank: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> int:
        raise error

    assert run_command(monkeypatch, rank, command)[0] == [error]
