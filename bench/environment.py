"""The machine and the software that a number came from: what has to be known to make sense of it or repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "transformers", "numpy", "x-transformers", "keras", "keras-hub")
# Instruction sets that decide how fast matrix products are, by precision.
CPU_FLAGS = (
    *("avx2", "fma3", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx10_1", "avx10_2"),
    *("amx_tile", "amx_bf16", "amx_fp16", "neon", "sve", "sve2", "bf16", "sve_bf16", "i8mm"),
)
ROOT = Path(__file__).parents[1]


def environment(device: torch.device) -> dict[str, Any]:
    """Everything worth recording, as plain values; None where this machine does not tell."""
    return {
        "device": device_name(device),
        "device_kind": device.type,
        "device_memory": device_memory(device),
        "computes_bfloat16": computes_bfloat16(device),
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "cores": {"physical": psutil.cpu_count(logical=False), "logical": psutil.cpu_count()},
        "memory": psutil.virtual_memory().total,
        "load": load(),
        "clocks": clocks(device),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "python": platform.python_version(),
        # torch by its own word: a CUDA build is 2.13.0+cu130, which the metadata of the one on PyPI calls 2.13.0.
        "packages": {name: package_version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
        "commit": commit(ROOT),
    }


def device_name(device: torch.device) -> str:
    """The name on the box, as far as it is known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else f"{device.type} of {cpu_name()}"


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def capabilities() -> dict[str, Any]:
    """What torch found out about the CPU; empty where it does not say."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def cpu_name() -> str:
    """The CPU's name, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return str(capabilities().get("cpu_name") or platform.processor() or platform.machine())


def cpu_flags() -> list[str]:
    """Which of `CPU_FLAGS` this CPU has."""
    known = capabilities()
    return [flag for flag in CPU_FLAGS if known.get(flag)]


def computes_bfloat16(device: torch.device) -> bool | None:
    """Whether a device has instructions for bfloat16; without them it is emulated, and slow. None: cannot be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        known = capabilities()
        return any(value for flag, value in known.items() if "bf16" in flag) if known else None
    return None


def load() -> float | None:
    """Processes that wanted to run over the last minute, on average; None where the system does not count them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def clocks(device: torch.device) -> dict[str, float | None]:
    """The clocks just now and at most, in MHz; None where they cannot be read."""
    if device.type == "cuda":
        words = nvidia_smi(device, "clocks.current.sm", "clocks.max.sm", "power.limit")
        return dict(zip(("now", "most", "power_limit_watts"), words, strict=True))
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        found = None
    return {"now": (found and found.current) or None, "most": (found and found.max) or None}


def clocks_after_work(found: dict[str, float | None], device: torch.device) -> dict[str, float | None]:
    """Clocks that were read before, with the lowest and the highest that were ever seen just after work, in MHz.

    An idle device lowers its clock and a hot one too, so the one before says little of a measurement. To be called
    whenever the device has just worked, with what the call before returned; None where it cannot be read.
    """
    seen = (found.get("lowest_after_work"), found.get("highest_after_work"), clocks(device)["now"])
    known = [clock for clock in seen if clock is not None]
    return {**found, "lowest_after_work": min(known, default=None), "highest_after_work": max(known, default=None)}


def nvidia_smi(device: torch.device, *what: str) -> list[float | None]:
    """Numbers that the driver's own tool tells of a device; None for each that it does not know, or if it is not
    there."""
    command = ["nvidia-smi", f"--id={nvidia_id(device)}", f"--query-gpu={','.join(what)}"]
    command.append("--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return [None] * len(what)
    words = done.stdout.strip().split(",")
    return [number_in(word) for word in words] if len(words) == len(what) else [None] * len(what)


def nvidia_id(device: torch.device) -> str:
    """What the driver's tool calls a device.

    Torch counts only what CUDA_VISIBLE_DEVICES leaves, the fastest first; the tool counts all, by their slots. So it is
    asked by the unique name, which torch gives without its "GPU-", and by torch's number only where torch gives none.
    """
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is not None:
        return f"GPU-{uuid}"
    return str(torch.cuda.current_device() if device.index is None else device.index)


def number_in(word: str) -> float | None:
    """The number that a word is; None for one like "[N/A]"."""
    try:
        return float(word)
    except ValueError:
        return None


def package_version(name: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(root: Path) -> str | None:
    """The commit that is checked out at `root`, with "+changes" if files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside somebody else's repository
        changed = "+changes" if git("status", "--porcelain") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None
