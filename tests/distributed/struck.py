"""torchrun -m tests.distributed.struck HOW RANK STEP train ...: make one process of a training run fail."""

import os
import signal
import sys
import time
from typing import NoReturn, TextIO

import reference.cli.train as command
from optimized.__main__ import start
from optimized.launch import Launched
from reference.cli.progress import Lines

how, rank, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mine = rank == int(os.environ["RANK"])


def strike() -> None:
    match how:
        case "bug":
            raise RuntimeError(f"nobody expected this in rank {rank}")
        case "full disk":
            raise OSError(28, "No space left on device")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "ctrl-c":
            signal.raise_signal(signal.SIGINT)


class Struck(Lines):
    def stepped(self, done: int) -> None:
        super().stepped(done)
        if mine and done == at:
            strike()


def no_text(*arguments: object) -> None:
    raise ValueError(f"the text is not there for rank {rank}")


fail = Launched.fail


def fail_late(self: Launched, error: BaseException, to: TextIO) -> NoReturn:
    time.sleep(0.5)  # by now torchrun has seen which process is gone and has told this one to end
    fail(self, error, to)


command.display = Struck
if how == "killed" and not mine:
    Launched.fail = fail_late  # type: ignore[method-assign]
if how == "no text" and mine:
    command.load_dataset = no_text
other = ["--seed", "2"] if how == "other seed" and mine else []
sys.exit(start([*sys.argv[4:], *other]))
