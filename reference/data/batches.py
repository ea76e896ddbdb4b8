"""Which tokens training step s sees: a pure function of (seed, step, rank, world), with no state to lose.

    B    batch size: rows in a step, over all ranks together
    T    block size: tokens in a row

A row is T + 1 tokens in a run: the first T are the input, the last T, one further, the targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference.data.shards import TokenSequence
from reference.ids import check_values

Tokens = Tensor | NDArray[np.integer[Any]] | TokenSequence | Sequence[int]
Order = Literal["random", "sequential"]

IGNORED = -1  # the target that a loss leaves out


class Batches:
    """The batches of a training run.

    `order="random"` starts each row anywhere. `order="sequential"` cuts the tokens into blocks end to end and
    takes them in order; after the last full block comes the first again, in the middle of a batch if need be,
    so that between two visits to a block every other one is visited once. The seed has no say in it.

    With a vocab_size every token is checked to be an id below it: those of a tensor now, others on the CPU as they are
    fetched, since there may be more of them than anybody would wait for.

    Raises:
        ValueError: sizes below 1, an unknown order, too few tokens for one row, or a token that is no id.
    """

    def __init__(
        self,
        tokens: Tokens,
        block_size: int,
        batch_size: int,
        seed: int,
        order: Order = "random",
        vocab_size: int | None = None,
    ) -> None:
        _check_sizes(block_size, batch_size)
        if order not in get_args(Order):
            raise ValueError(f"unknown order {order!r}: choose one of {', '.join(get_args(Order))}")
        if len(tokens) < block_size + 1:
            raise ValueError(
                f"{len(tokens)} tokens are too few for blocks of {block_size}: at least {block_size + 1} are "
                "needed (a block and the token after it); use a longer text or a smaller block size"
            )
        _check_tensor(tokens, vocab_size)
        self.tokens = tokens
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.order = order

    def at(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Return the ids and targets of a step, each (B / world, T) int64, that fall to one of `world` ranks.

        The ranks' batches laid one after the other are the batch of a single rank, so the number of ranks
        changes nothing about what is learned from.

        Raises:
            ValueError: a step below 0, a world that does not divide the batch, a rank that the world has not, or a
                token that is no id.
        """
        if step < 0:
            raise ValueError(f"step {step} is below 0: the first step is 0")
        if world < 1 or self.batch_size % world:
            raise ValueError(
                f"a batch of {self.batch_size} rows cannot be shared equally by {world} ranks: "
                "choose a batch size that the number of ranks divides"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is none of {world}: ranks run from 0 to {world - 1}")
        share = self.batch_size // world
        rows = range(rank * share, (rank + 1) * share)
        block = torch.stack([self._row(step, row) for row in rows])  # (B / world, T + 1)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()  # (B / world, T) twice

    def _row(self, step: int, row: int) -> Tensor:
        """Return one row, (T + 1,)."""
        if self.order == "random":
            start = _hashed(self.seed, step, row, below=len(self.tokens) - self.block_size)
        else:
            full_blocks = (len(self.tokens) - 1) // self.block_size
            start = (step * self.batch_size + row) % full_blocks * self.block_size
        return _fetch(self.tokens, start, start + self.block_size + 1, self.vocab_size)


def windows(
    tokens: Tokens, block_size: int, batch_size: int, vocab_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through all tokens once, in order, for validation: every token but the first is a target just once.

    Yields ids and targets of shape (B, T), the last batch with as many rows as are left. Where the tokens end
    inside the last row, its ids are filled up with 0 and its targets with -1, which the loss ignores.
    No randomness is used, so nothing about training changes. With a vocab_size tokens are checked as by `Batches`.

    Raises:
        ValueError: sizes below 1, fewer than two tokens, or one in a tensor that is no id (at once, not when the first
            batch is asked for).
    """
    _check_sizes(block_size, batch_size)
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} tokens are too few to validate on: at least 2 are needed; use a longer text")
    _check_tensor(tokens, vocab_size)
    starts = range(0, len(tokens) - 1, block_size)
    return (
        _window_batch(tokens, block_size, starts[first : first + batch_size], vocab_size)
        for first in range(0, len(starts), batch_size)
    )


def _window_batch(
    tokens: Tokens, block_size: int, starts: Sequence[int], vocab_size: int | None
) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(starts), block_size, dtype=torch.int64)
    targets = torch.full((len(starts), block_size), IGNORED, dtype=torch.int64)
    for row, start in enumerate(starts):
        end = min(start + block_size + 1, len(tokens))
        block = _fetch(tokens, start, end, vocab_size)  # (T + 1,), fewer at the end
        ids[row, : len(block) - 1] = block[:-1]
        targets[row, : len(block) - 1] = block[1:]
    return ids, targets


def _hashed(seed: int, step: int, row: int, below: int) -> int:
    """Return a number from 0 to below - 1 that depends on the arguments alone: SHA-256 of "seed step row".

    A torch.Generator seeded from (seed, step) would take fewer hashes, but on the CPU it keeps only the low
    32 bits of its seed, so that in a long run some steps would repeat others; and no release of torch
    promises the stream of the next. The first 8 bytes modulo `below` are uniform to within below / 2**64.
    """
    digest = hashlib.sha256(f"{seed} {step} {row}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % below


def _fetch(tokens: Tokens, start: int, stop: int, vocab_size: int | None) -> Tensor:
    """Return tokens[start:stop] as int64, whatever they are kept in, checked unless they are a tensor's."""
    part = tokens[start:stop]
    if isinstance(part, Tensor):
        return part.to(torch.int64)
    if isinstance(part, TokenSequence):
        part = part.numpy()
    fetched = torch.from_numpy(np.array(part, dtype=np.int64))
    if vocab_size is not None:
        check_values(fetched, vocab_size)
    return fetched


def _check_tensor(tokens: Tokens, vocab_size: int | None) -> None:
    """Check the ids of a tensor, once: it may be on a device, where each look at it is a wait."""
    if isinstance(tokens, Tensor) and vocab_size is not None:
        check_values(tokens.to(torch.int64), vocab_size)


def _check_sizes(block_size: int, batch_size: int) -> None:
    for what, size in (("block size", block_size), ("batch size", batch_size)):
        if size < 1:
            raise ValueError(f"{what} {size} is below 1")
