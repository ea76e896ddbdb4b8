"""How much memory a comparison needs, how much there is, and how much each contender's training step takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import psutil
import torch

from bench.contenders import CONTENDERS, build_in, import_what_is_needed
from bench.hot import random_batch
from bench.peak import Measurement, Run
from bench.throughput import synchronise
from bench.workloads import Workload
from reference.config import GPTConfig

# Two steps: only in the second do weights, moments, activations and gradients all exist at once.
STEPS = 2


def start_measuring(name: str, workload: Workload, precision: str, device: torch.device, threads: int) -> Measurement:
    """Start measuring the peak memory of a contender's training step, in a process of its own.

    What counts: weights, gradients, both moments, activations and logits, temporary tensors, what allocators keep, and
    on the CPU what libraries set up on first use. What does not: the interpreter and imported libraries, the token ids.
    On a CUDA device it is `torch.cuda.max_memory_allocated`, on MPS what the driver has given to the process.
    """
    argument = {
        "name": name,
        "config": asdict(workload.config),
        "batch": workload.batch,
        "time": workload.time,
        "precision": precision,
        "device": str(device),
        "threads": threads,
    }
    return Measurement("bench.memory:training_steps", argument)


def training_steps(argument: dict[str, Any]) -> Run:
    """In the process of its own: everything imported, and the function that builds a contender and trains it."""
    torch.set_num_threads(argument["threads"])
    device = torch.device(argument["device"])
    config = GPTConfig.from_dict(argument["config"])
    import_what_is_needed(argument["name"])
    ids, targets = (t.to(device) for t in random_batch(config, argument["batch"], argument["time"]))

    def run() -> int | None:
        model = build_in(argument["precision"], argument["name"], config, None, device)
        step = CONTENDERS[argument["name"]].build_step(model)
        for _ in range(STEPS):
            step(ids, targets)
        synchronise(device)()
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        if device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return None

    return run


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
    # oracle in float64: weights, a gradient and its canonical copy, and two moments if it takes steps;
    # beside it the weights all start from, in float32, and copies on the way to Hugging Face's layout
    small = workload.of_shape(*workload.proof_shape())
    proof = ((5 if steps else 3) * 8 + 3 * 4) * N + max(
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
    """Memory that is free for use on a device; None where it cannot be told."""
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
