"""Which device to compute on, by the name that the user gives."""

from __future__ import annotations

import torch
from torch import Tensor


def available_devices() -> list[str]:
    """Names of the devices of this machine that torch can use, the fastest kind first."""
    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    xpu = ["xpu"] if torch.xpu.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *xpu, *mps, "cpu"]


def choose_device(name: str, dtype: str = "float32") -> torch.device:
    """The device called `name`: auto, cpu, cuda, cuda:1, ...

    Args:
        name: auto takes the first accelerator that there is, else the CPU
        dtype: what is to be computed there; not every device has float64

    Raises ValueError, listing what this machine has, for a device that is not there.
    """
    there = available_devices()
    if name == "auto":
        device = torch.device(next(kind for kind in there if not (kind == "mps" and dtype == "float64")))
    elif name in there or any(one.split(":")[0] == name for one in there):
        device = torch.device(name)
    else:
        raise ValueError(f"unknown device {name!r}: this machine has {', '.join(['auto', *there])}")
    if device.type == "mps" and dtype == "float64":
        raise ValueError("--dtype float64 on mps: that device has no float64; use --device cpu, or float32")
    return device


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, where it is read after everything that was asked of the device before.

    To a CUDA device torch copies in its stream but waits for that stream, unless it is told not to. What it copies from
    is ordinary memory, which CUDA has read when the call returns. The other devices do not promise that.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def describe(device: torch.device) -> str:
    """A device for people: its name, and how many threads if it is the CPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu with {threads} thread{'s' if threads > 1 else ''}"
    return str(device)
