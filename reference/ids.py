"""Checks of token ids: shape and type in every forward pass, values only where ids enter.

Reading a value makes the host wait until the device has finished all queued work. In a forward pass that would cost one
wait per generated token, so a forward pass reads no value. Code that takes ids from outside checks them once:

    data/batches.py    the tokens of a text: on the CPU as they are fetched, a tensor when its batches are made
    sampling.py        a prompt (and optimized/generation.py, with its padding)
    plots/attention_maps.py, plots/introspection.py, bench/parity.py    the ids of one call
"""

from __future__ import annotations

import torch
from torch import Tensor

from reference.config import GPTConfig
from reference.functional import IGNORED


def check_ids(ids: Tensor, config: GPTConfig) -> None:
    """Raise a ValueError unless a model of this config can read the batch `ids`, values included.

    Waits for the ids' device.
    """
    check_shape(ids, config)
    check_values(ids, config.vocab_size)


def check_shape(ids: Tensor, config: GPTConfig) -> None:
    """Raise a ValueError unless `ids` is int64 of shape (B, T), T from 1 to the block size. Reads no values."""
    check_type(ids)
    if not 1 <= ids.shape[1] <= config.block_size:
        raise ValueError(
            f"a sequence of {ids.shape[1]} tokens: this model takes 1 to {config.block_size} (its block size)"
        )


def check_type(ids: Tensor) -> None:
    """Raise a ValueError unless `ids` is int64 of shape (B, T). Reads no values."""
    if ids.dim() != 2 or ids.dtype != torch.int64:
        raise ValueError(f"ids of shape {tuple(ids.shape)} and type {ids.dtype}: give int64 ids of shape (batch, time)")


def check_values(ids: Tensor, vocab_size: int) -> None:
    """Raise a ValueError unless every id is from 0 to vocab_size - 1. Waits for the ids' device.

    Args:
        ids: integers of any shape
    """
    bad = outside(ids, 0, vocab_size)
    if bad is not None:
        raise ValueError(f"token id {bad}: this model's vocabulary has the ids 0 to {vocab_size - 1}")


def check_targets(targets: Tensor, ids: Tensor, vocab_size: int) -> None:
    """Raise a ValueError unless every id has a target, from 0 to vocab_size - 1 or -1. Waits as `check_values`."""
    if targets.shape != ids.shape or targets.dtype != torch.int64:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} and type {targets.dtype}: give int64, one for each of the ids "
            f"{tuple(ids.shape)}"
        )
    bad = outside(targets, IGNORED, vocab_size)
    if bad is not None:
        raise ValueError(
            f"target {bad}: this model's vocabulary has the ids 0 to {vocab_size - 1}, and {IGNORED} means ignored"
        )


def outside(values: Tensor, start: int, stop: int) -> int | None:
    """A value outside [start, stop), the smallest or the largest; None if all are inside."""
    if values.numel() == 0:
        return None
    low, high = torch.stack(values.aminmax()).tolist()  # both at once: one wait
    if low < start:
        return int(low)
    return int(high) if high >= stop else None
