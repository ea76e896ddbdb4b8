"""Measure the peak memory of a function in a fresh process.

    peak_memory("package.module:function", {"any": "JSON"})

starts a fresh interpreter and calls `function(argument)`, which prepares (imports above all) and returns a second
function. The peak is measured while that one runs, above the memory held before. So the interpreter and libraries do
not count; tensors do, and so do memory kept by allocators and buffers that libraries set up on first use.

The operating system's own peak of resident memory is read, not samples: `VmHWM` on Linux (`ru_maxrss` would start at
the parent's peak, so a large parent would hide a small child), the peak working set on Windows, `ru_maxrss` elsewhere.
If the second function returns an int, that is the peak: a device's own count of its memory.
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
    baseline: int  # bytes held before: interpreter and libraries
    method: str  # resident or device

    def record(self) -> dict[str, Any]:
        """Plain values for a result file."""
        return {"peak": self.bytes, "baseline": self.baseline, "method": self.method}


def peak_memory(target: str, argument: Any, timeout: float = 600.0) -> Peak:
    """Measure a function's peak memory; see the module's docstring.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: plain JSON values
        timeout: seconds until the process is killed

    Raises RuntimeError with the last line of its standard error if it fails.
    """
    started = PeakMeasurement(target, argument)
    return started.result(timeout)


class PeakMeasurement:
    """A running measurement. Several can run at once."""

    def __init__(self, target: str, argument: Any) -> None:
        self.call = Call(f"{__name__}:measure_here", [target, argument], f"measuring the memory of {target}")

    def result(self, timeout: float = 600.0) -> Peak:
        """Wait for the result; see `peak_memory`."""
        return Peak(**self.call.result(timeout))

    def stop(self) -> None:
        """End the process if it is running."""
        self.call.stop()


def highest() -> int:
    """Peak resident memory of this process in bytes, since its start or `forget_highest`."""
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
    """Reset the peak to the memory held now, if the system can (Linux: proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure_here(asked: tuple[str, Any]) -> dict[str, Any]:
    """In the fresh process: measure a target with its argument."""
    target, argument = asked
    return asdict(watched(function_of(target)(argument)))


def watched(run: Run) -> Peak:
    """In a fresh process: read the baseline, run, read the peak."""
    forget_highest()
    baseline = psutil.Process().memory_info().rss
    counted = run()
    if counted is not None:
        return Peak(counted, baseline, "device")
    return Peak(max(0, highest() - baseline), baseline, "resident")
