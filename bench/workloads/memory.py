"""How much memory a comparison needs, and how much there is."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import psutil
import torch

from bench.workloads.workload import Workload


def needed_bytes(workload: Workload, precision: str, contenders: int, steps: int) -> int:
    """About how much memory a comparison takes at its highest: all contenders trained side by side, or the proof.

    Args:
        contenders: how many
        steps: AdamW steps of the proof
    """
    N = workload.config.parameter_count()
    width = 8 if precision == "float64" else 4
    # weights, gradients and two moments of each; they step in turn, so activations exist only once
    side_by_side = contenders * 4 * width * N + activation_bytes(workload, width)
    # oracle in float64: weights, a gradient, and then either its canonical copy or two moments, if it takes steps;
    # beside it the weights all start from, in float32, and copies on the way to Hugging Face's layout
    small = workload.of_shape(*workload.proof_shape())
    proof = ((4 if steps else 3) * 8 + 3 * 4) * N + max(
        activation_bytes(small, 8), 3 * 8 * workload.tokens * workload.config.vocab_size
    )
    return max(side_by_side, proof)


def activation_bytes(workload: Workload, width: int) -> int:
    """About what a training step keeps between its forward and its backward pass, with explicit attention.

    Args:
        width: bytes of a number

    Counted in the reference, which keeps most: per token and layer 4 vectors of size C for each norm and residual, 4
    for the attention's ends and 4 C for each step of the GELU by hand; 6 rows of T per head; and about 5 rows of V.
    """
    c = workload.config
    per_token = c.n_layer * (55 * c.n_embd + 6 * c.n_head * workload.time) + 5 * c.vocab_size
    return workload.tokens * per_token * width


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free for use on a device; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type in ("cpu", "mps"):  # MPS shares the memory of the machine
        return int(psutil.virtual_memory().available)
    return None


def check_memory(needed: int, available: int | None, what: str) -> None:
    """Raise a ValueError if something does not fit."""
    if available is not None and needed > available:
        raise ValueError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free: "
            "give a smaller --size, --batch or --time, fewer --contenders, or --steps 0"
        )


def give_back_freed() -> None:
    """Have malloc return what is freed to the system, where it can: the rung kept_memory keeps it otherwise."""
    with suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
