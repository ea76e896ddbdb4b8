"""Devices by the names that the user gives."""

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
        name: auto is the first accelerator, or the CPU if there is none
        dtype: the precision of the weights; not every device has float64

    Raises ValueError for an unknown device, with the devices of this machine.
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
    """Copy a tensor to a device; on CUDA without waiting for the work queued there.

    CUDA has read pageable memory when the call returns, so the source may change then. Other devices do not guarantee
    that, so there the copy blocks.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def describe(device: torch.device) -> str:
    """A device for people: its name, and the number of threads of a CPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu with {threads} thread{'s' if threads > 1 else ''}"
    return str(device)
