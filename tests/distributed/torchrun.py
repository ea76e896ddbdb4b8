"""Run torchrun with a time limit, on this machine only."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.process_group import start

LIMIT = 150.0  # seconds, far above what any takes: it ends one that hangs


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines of standard error that are not torchrun's own report."""
        return [line for line in self.err.splitlines() if line.startswith(("error:", "note:"))]

    @property
    def exit_codes(self) -> list[int]:
        """How the processes ended, as torchrun reports it; none if all went well."""
        report = [line.split(":", 1)[1] for line in self.err.splitlines() if line.strip().startswith("exitcode ")]
        return [int(text.split()[0]) for text in report]


def begin(
    *arguments: object, processes: int, cwd: Path, launcher: tuple[str, ...] = ("--standalone",), **more: str
) -> subprocess.Popen[str]:
    """torchrun as a process of its own, in a session of its own."""
    processes_here = ("--nproc-per-node", processes)
    variables = {"GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "200", **more}
    return start("-m", "torch.distributed.run", *launcher, *processes_here, *arguments, cwd=cwd, **variables)


def finish(process: subprocess.Popen[str], limit: float = LIMIT) -> Ended:
    """Wait for a torchrun; a failure if it takes longer than the limit."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends its processes
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"still running after {limit:.0f} seconds; it said\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def torchrun(*arguments: object, processes: int, cwd: Path, limit: float = LIMIT, **more: str) -> Ended:
    """Run torchrun on this machine to its end."""
    return finish(begin(*arguments, processes=processes, cwd=cwd, **more), limit)


def optimized(*arguments: object, processes: int, cwd: Path, limit: float = LIMIT, **more: str) -> Ended:
    """`python -m optimized` under torchrun."""
    return torchrun("-m", "optimized", *arguments, processes=processes, cwd=cwd, limit=limit, **more)
