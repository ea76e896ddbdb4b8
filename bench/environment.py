"""The machine and the software that a number came from: what has to be known to make sense of it or repeat it."""

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
# Variables by which a CPU computes as if it were a lesser one: torch's own kernels, oneDNN (by its two names), MKL.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
# What makes a machine another one, besides its identity: rates of two of them do not say what changed in the code.
MACHINE = ("device_kind", "device_memory", "cpu", "cpu_flags", "cores", "threads", "system")
# What may have changed on one machine, and is told.
SOFTWARE = ("python", "cuda", "commit", "matmul_precision")
ROOT = Path(__file__).parents[1]


def environment(device: torch.device) -> dict[str, Any]:
    """Everything worth recording, as plain values; None where this machine does not tell."""
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
        # torch by its own word: a CUDA build is 2.13.0+cu130, which the metadata of the one on PyPI calls 2.13.0.
        "packages": {name: package_version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
        "commit": commit(ROOT),
    }


def identity(device: torch.device) -> dict[str, Any]:
    """What tells one kind of machine from another; numbers of two kinds are not to be taken for each other's.

    A name does not do it: there are CPUs with and without bfloat16 that both call themselves "AMD EPYC". So, besides
    the name, of a CPU: the instruction sets that torch may use, narrowest first (the architecture where there is none
    that matters), the limits that the environment sets below what the CPU has, and how many threads compute. Of other
    devices these are empty, and None.
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
    """An identity for people: AMD EPYC (AVX-512 bfloat16), 2 threads.

    Of instruction sets the widest stands for those below it; under a limit, which may leave out one in between, all
    are named: AMD EPYC (limited to AVX2), 2 threads.
    """
    sets, threads = identity["instruction_sets"], identity["threads"]
    kind = f"limited to {', '.join(sets)}" if identity["limits"] else sets[-1] if sets else ""
    number = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    return f"{identity['name']}{f' ({kind})' if kind else ''}{number}"


def limits() -> dict[str, str]:
    """Those of `LIMITS` that are set and heeded, with their values.

    A variable that asks for no more than the CPU has anyway is one too: better a machine that is taken for a limited
    one than a limited one that is taken for itself.
    """
    found = {name: value for name in LIMITS if (value := os.environ.get(name))}
    if found.get("ATEN_CPU_CAPABILITY") != torch.backends.cpu.get_cpu_capability().lower():
        found.pop("ATEN_CPU_CAPABILITY", None)  # torch does not know it, warns and ignores it
    if "ONEDNN_MAX_CPU_ISA" in found:
        found.pop("DNNL_MAX_CPU_ISA", None)  # the older name yields
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if found.get(name, "").upper() in ("ALL", "DEFAULT"):
            del found[name]
    return found


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
    here = hardware_of(str(device))
    return here.bfloat16 if here.tried else None


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


def machine_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What tells two machines apart, in words; both identities first, if they differ."""
    x, y = before["environment"], after["environment"]
    if x["identity"] != y["identity"]:
        a, b = identity_in_words(x["identity"]), identity_in_words(y["identity"])
        yield f"{a} and {b}"
        for key in ("instruction_sets", "limits") if a == b else ():  # what those words leave out
            if x["identity"][key] != y["identity"][key]:
                yield f"{key}: {worded(x['identity'][key])} and {worded(y['identity'][key])}"
    named = {"threads"} if x["identity"]["threads"] and y["identity"]["threads"] else set()
    for key in MACHINE:
        if key not in named and x.get(key) != y.get(key):
            yield f"{key}: {worded(x.get(key))} and {worded(y.get(key))}"


def software_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Other versions."""
    x, y = before["environment"], after["environment"]
    for key in SOFTWARE:
        if x.get(key) != y.get(key):
            yield f"{key}: {x.get(key)} -> {y.get(key)}"
    packages = {**x["packages"], **y["packages"]}
    for name in packages:
        if x["packages"].get(name) != y["packages"].get(name):
            yield f"{name}: {x['packages'].get(name)} -> {y['packages'].get(name)}"


def worded(value: Any) -> str:
    """A value of the environment, short."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute on so many CPU threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
