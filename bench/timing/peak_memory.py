"""Measure the peak memory of a function, in a process of its own.

    peak_memory("package.module:function", {"any": "JSON"})

starts a fresh interpreter, imports the module, calls `function(argument)`, which gets everything ready (imports above
all) and returns a second function; then notes how much memory the process holds, calls that one, and reports how much
more it held at its highest. So the interpreter and the libraries do not count, and everything does that the second
function makes: tensors, but also what allocators keep and what libraries set up on first use.

What is read is resident memory as the operating system saw it, not samples: `VmHWM` on Linux, which is this process's
own (`ru_maxrss` there begins with the peak of the parent, so a large parent would hide a small child), the peak working
set on Windows, `ru_maxrss` elsewhere. If the second function returns a whole number, that is taken instead: a device's
own count of its own memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.timing.child_process import function_of
from bench.timing.fresh_process import Call

Run = Callable[[], int | None]


@dataclass(frozen=True)
class Peak:
    """The peak memory of a process."""

    bytes: int  # above the baseline
    baseline: int  # held before: interpreter and libraries
    method: str  # resident or device

    def record(self) -> dict[str, Any]:
        """What a result file has of it."""
        return {"peak": self.bytes, "baseline": self.baseline, "method": self.method}


def peak_memory(target: str, argument: Any, timeout: float = 600.0) -> Peak:
    """Measure a function; see the head of this file.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: anything that JSON holds
        timeout: seconds until the process is ended

    Raises RuntimeError with the last line of its standard error if it fails.
    """
    started = Measurement(target, argument)
    return started.result(timeout)


class Measurement:
    """A measurement under way. Several may run side by side."""

    def __init__(self, target: str, argument: Any) -> None:
        self.call = Call(f"{__name__}:measure_here", [target, argument], f"measuring the memory of {target}")

    def result(self, timeout: float = 600.0) -> Peak:
        """Wait for it; see `peak_memory`."""
        return Peak(**self.call.result(timeout))

    def stop(self) -> None:
        """End the process if it still runs."""
        self.call.stop()


def highest() -> int:
    """The most resident memory this process ever held, or since `forget_highest`, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept if sys.platform == "darwin" else kept * 1024


def forget_highest() -> None:
    """Begin again from what is held now, where the system can (Linux: proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure_here(asked: tuple[str, Any]) -> dict[str, Any]:
    """What the fresh process does, asked for a target and its argument."""
    target, argument = asked
    return asdict(watched(function_of(target)(argument)))


def watched(run: Run) -> Peak:
    """In a process that has done nothing else: note the baseline, run, look."""
    forget_highest()
    baseline = psutil.Process().memory_info().rss
    counted = run()
    if counted is not None:
        return Peak(counted, baseline, "device")
    return Peak(max(0, highest() - baseline), baseline, "resident")
