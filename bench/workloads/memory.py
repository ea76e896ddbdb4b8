"""The memory that a comparison needs, and the memory that is free."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import psutil
import torch

from bench.workloads.workload import Workload


def needed_bytes(workload: Workload, precision: str, contenders: int, steps: int) -> int:
    """Peak memory of a comparison, estimated: the larger of training all contenders at once and the proof.

    Args:
        contenders: their number
        steps: AdamW steps of the proof
    """
    N = workload.config.parameter_count()
    width = 8 if precision == "float64" else 4
    # weights, gradients and two moments each; contenders step in turn, so activations exist once
    side_by_side = contenders * 4 * width * N + activation_bytes(workload, width)
    # the float64 oracle: weights, gradients, and two moments if it takes steps, else a canonical copy of the gradients;
    # also the initial float32 weights and copies made in the conversion to Hugging Face's layout
    small = workload.of_shape(*workload.proof_shape())
    proof = ((4 if steps else 3) * 8 + 3 * 4) * N + max(
        activation_bytes(small, 8), 3 * 8 * workload.tokens * workload.config.vocab_size
    )
    return max(side_by_side, proof)


def activation_bytes(workload: Workload, width: int) -> int:
    """Activations that a training step keeps for its backward pass, estimated in bytes, with explicit attention.

    Args:
        width: bytes per number

    Counted in the reference, which keeps most. Per token and layer: 55 C in all (norms, residuals, attention's inputs
    and outputs, each step of the handwritten GELU at 4 C) and 6 T per head. Per token: about 5 V.
    """
    c = workload.config
    per_token = c.n_layer * (55 * c.n_embd + 6 * c.n_head * workload.time) + 5 * c.vocab_size
    return workload.tokens * per_token * width


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type in ("cpu", "mps"):  # MPS shares the memory of the machine
        return int(psutil.virtual_memory().available)
    return None


def give_back_freed() -> None:
    """Have malloc return freed memory to the system, if it can: the rung kept_memory makes malloc keep it."""
    with suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
