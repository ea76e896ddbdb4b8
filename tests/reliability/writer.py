"""Processes that save without end, to be killed. `python -m tests.reliability.writer` is told on its input where.

Each line of input, `FIRST-STEP RUN-FOLDER`, forks one that saves from that step on, so torch is imported once. On
the output: `pid N`, then `saved STEP` after each save, then `dead`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from reference import GPTConfig
from reference.checkpoints.checkpoint import Checkpoint, save
from tests.reliability.state import checkpoint_at

# large enough for a save to be cut in the middle of a file
CONFIG = GPTConfig(block_size=16, vocab_size=64, n_layer=2, n_head=2, n_embd=64)
LONGEST = 60.0  # seconds until a writer ends by itself


def state_at(step: int) -> Checkpoint:
    """What these processes save for a step."""
    return checkpoint_at(step, CONFIG)


def save_without_end(run: Path, step: int) -> None:
    """Save each step, every third one twice: a folder that is being replaced can be cut as well."""
    parent, end = os.getppid(), time.monotonic() + LONGEST
    while os.getppid() == parent and time.monotonic() < end:
        for _ in range(2 if step % 3 == 0 else 1):
            save(run, state_at(step))
            os.write(1, f"saved {step}\n".encode())
        step += 1


def main() -> None:
    """Fork for each line of input, and wait."""
    for line in sys.stdin:
        step, run = line.rstrip("\n").split(" ", 1)
        pid = os.fork()
        if pid == 0:
            save_without_end(Path(run), int(step))
            os._exit(0)
        os.write(1, f"pid {pid}\n".encode())
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")


class Writers:
    """The process that forks writers, and the talk with it; one writer lives at a time."""

    def __enter__(self) -> Writers:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.writer"],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.pid = 0
        return self

    def start(self, run: Path, step: int) -> None:
        """Let one begin to save at this step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step} {run}\n")
        self.process.stdin.flush()
        self.lines = []
        while not self.pid:  # a save may be told of first
            self.read_line()

    def wait_for_a_save(self) -> None:
        """Return when it has saved once, or again."""
        while not (line := self.read_line()).startswith("saved "):
            assert line != "dead", "the writer died by itself; what it said is above, on standard error"

    def kill(self) -> int | None:
        """Kill it; returns the last step that it said it had saved."""
        os.kill(self.pid, 9)
        while self.read_line() != "dead":
            pass
        self.pid = 0
        saved = [int(line.split()[1]) for line in self.lines if line.startswith("saved ")]
        return saved[-1] if saved else None

    def read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the writing process ended by itself"
        self.lines.append(line.rstrip("\n"))
        if line.startswith("pid "):
            self.pid = int(line.split()[1])
        return self.lines[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            os.kill(self.pid, 9)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


if __name__ == "__main__":
    main()
