"""The machine and the software behind a measurement, recorded in every result file."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from optimized.hardware import hardware_of
from reference.training import cpu

PACKAGES = ("torch", "transformers", "numpy", "x-transformers", "keras", "keras-hub")
# Instruction sets that decide how fast matrix products are, by precision.
CPU_FLAGS = (
    *("avx2", "fma3", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx10_1", "avx10_2"),
    *("amx_tile", "amx_bf16", "amx_fp16", "neon", "sve", "sve2", "bf16", "sve_bf16", "i8mm"),
)
# Variables that limit the instruction sets of torch's own kernels, of oneDNN (under two names) and of MKL.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
# Like its identity, these distinguish machines: results of two machines cannot show a change of the code.
MACHINE = ("device_kind", "device_memory", "cpu", "cpu_flags", "cores", "threads")
# These may change on one machine; a change is reported.
SOFTWARE = ("system", "python", "cuda", "commit", "matmul_precision")
SAME_MEMORY = 0.02  # of the memory: one machine has a little more or less under another kernel
ROOT = Path(__file__).parents[1]


def environment(device: torch.device) -> dict[str, Any]:
    """The whole record, as plain values; None for unknown ones."""
    return {
        "device": device_name(device),
        "identity": identity(device),
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
        # torch.__version__ names the CUDA build, 2.13.0+cu130; the metadata of the one on PyPI is 2.13.0.
        "packages": {name: package_version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
        "commit": commit(ROOT),
    }


def identity(device: torch.device) -> dict[str, Any]:
    """The kind of machine; results of two kinds are never mixed.

    The name is not enough: CPUs with and without bfloat16 are both called "AMD EPYC". So a CPU also has the instruction
    sets that torch may use, narrowest first (or the architecture, if there are none), the limits that environment
    variables set, and the number of threads. For other devices these are empty, and None.
    """
    if device.type != "cpu":
        return {"name": device_name(device), "instruction_sets": [], "limits": {}, "threads": None}
    return {
        "name": device_name(device),
        "instruction_sets": list(cpu.instruction_sets()) or [platform.machine()],
        "limits": limits(),
        "threads": torch.get_num_threads(),
    }


def identity_in_words(identity: dict[str, Any]) -> str:
    """An identity in words: AMD EPYC (AVX-512 bfloat16), 2 threads.

    Only the widest instruction set is named; under a limit all are, as one in between may be missing: AMD EPYC
    (limited to AVX2), 2 threads.
    """
    sets, threads = identity["instruction_sets"], identity["threads"]
    kind = f"limited to {', '.join(sets)}" if identity["limits"] else sets[-1] if sets else ""
    number = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    return f"{identity['name']}{f' ({kind})' if kind else ''}{number}"


def limits() -> dict[str, str]:
    """The variables of `LIMITS` that are set and have an effect, with their values.

    A limit at or above the CPU's own level counts too: mistaking a full machine for a limited one does less harm than
    the reverse.
    """
    found = {name: value for name in LIMITS if (value := os.environ.get(name))}
    if found.get("ATEN_CPU_CAPABILITY") != torch.backends.cpu.get_cpu_capability().lower():
        found.pop("ATEN_CPU_CAPABILITY", None)  # torch warns of an unknown value and ignores it
    if "ONEDNN_MAX_CPU_ISA" in found:
        found.pop("DNNL_MAX_CPU_ISA", None)  # the newer name wins
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if found.get(name, "").upper() in ("ALL", "DEFAULT"):
            del found[name]
    return found


def device_name(device: torch.device) -> str:
    """The device's product name, as far as known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else f"{device.type} of {cpu_name()}"


def device_memory(device: torch.device) -> int:
    """The device's memory in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def capabilities() -> dict[str, Any]:
    """torch's record of the CPU's capabilities; empty if torch has none."""
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
    """The flags of `CPU_FLAGS` that this CPU has."""
    known = capabilities()
    return [flag for flag in CPU_FLAGS if known.get(flag)]


def computes_bfloat16(device: torch.device) -> bool | None:
    """Whether a device has bfloat16 instructions; without them it is emulated and slow. None: unknown."""
    here = hardware_of(str(device))
    return here.bfloat16 if here.tried else None


def load() -> float | None:
    """The load average over the last minute; None if the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def clocks(device: torch.device) -> dict[str, float | None]:
    """Current and maximal clock in MHz; None if unknown."""
    if device.type == "cuda":
        words = nvidia_smi(device, "clocks.current.sm", "clocks.max.sm", "power.limit")
        return dict(zip(("now", "most", "power_limit_watts"), words, strict=True))
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        found = None
    return {"now": (found and found.current) or None, "most": (found and found.max) or None}


def clocks_after_work(found: dict[str, float | None], device: torch.device) -> dict[str, float | None]:
    """Add the lowest and the highest clock seen just after work, in MHz.

    An idle device lowers its clock, and so does an overheated one, so the clock before a measurement says little. Call
    this when the device has just worked, with the result of the previous call. None if unknown.
    """
    seen = (found.get("lowest_after_work"), found.get("highest_after_work"), clocks(device)["now"])
    known = [clock for clock in seen if clock is not None]
    return {**found, "lowest_after_work": min(known, default=None), "highest_after_work": max(known, default=None)}


def nvidia_smi(device: torch.device, *what: str) -> list[float | None]:
    """Query nvidia-smi for numbers of a device; None for an unknown number, or if there is no nvidia-smi."""
    command = ["nvidia-smi", f"--id={nvidia_id(device)}", f"--query-gpu={','.join(what)}"]
    command.append("--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return [None] * len(what)
    words = done.stdout.strip().split(",")
    return [number_in(word) for word in words] if len(words) == len(what) else [None] * len(what)


def nvidia_id(device: torch.device) -> str:
    """nvidia-smi's id of a device.

    torch numbers the devices in CUDA_VISIBLE_DEVICES, the fastest first; nvidia-smi numbers all, by bus slot. So this
    is the UUID, which torch gives without its "GPU-", or torch's number if there is no UUID.
    """
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is not None:
        return f"GPU-{uuid}"
    return str(torch.cuda.current_device() if device.index is None else device.index)


def number_in(word: str) -> float | None:
    """A word as a number; None for "[N/A]" and the like."""
    try:
        return float(word)
    except ValueError:
        return None


def package_version(name: str) -> str | None:
    """The installed version of a package, without an import; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(root: Path) -> str | None:
    """The commit checked out at `root`, with "+changes" if files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside another repository
        changed = "+changes" if git("status", "--porcelain") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def machine_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield the differences of two machines, in words; identities first."""
    x, y = before["environment"], after["environment"]
    if x["identity"] != y["identity"]:
        a, b = identity_in_words(x["identity"]), identity_in_words(y["identity"])
        yield f"{a} and {b}"
        for key in ("instruction_sets", "limits") if a == b else ():  # the words are equal
            if x["identity"][key] != y["identity"][key]:
                yield f"{key}: {worded(x['identity'][key])} and {worded(y['identity'][key])}"
    named = {"threads"} if x["identity"]["threads"] and y["identity"]["threads"] else set()
    for key in MACHINE:
        if key in named or x.get(key) == y.get(key):
            continue
        if key == "device_memory" and x.get(key) and y.get(key) and abs(x[key] / y[key] - 1) < SAME_MEMORY:
            continue
        yield f"{key}: {worded(x.get(key))} and {worded(y.get(key))}"


def software_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield the differences in software versions."""
    x, y = before["environment"], after["environment"]
    for key in SOFTWARE:
        if x.get(key) != y.get(key):
            yield f"{key}: {x.get(key)} -> {y.get(key)}"
    packages = {**x["packages"], **y["packages"]}
    for name in packages:
        if x["packages"].get(name) != y["packages"].get(name):
            yield f"{name}: {x['packages'].get(name)} -> {y['packages'].get(name)}"


def worded(value: Any) -> str:
    """A value of the environment as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Inside the block, compute with this number of CPU threads."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
