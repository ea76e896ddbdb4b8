"""Training batches: a pure function of (seed, step, rank, world), without state.

    B    batch size: rows in a step, over all ranks together
    T    block size: tokens in a row

A row is T + 1 consecutive tokens: the first T are the input, the last T the targets.
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

IGNORED = -1  # a target that the loss ignores


class Batches:
    """The batches of a training run.

    `order="random"` starts each row at a random position. `order="sequential"` takes consecutive blocks in order, and
    after the last full block starts again, also within a batch; it ignores the seed.

    With a vocab_size, checks that every token is an id below it: a tensor's tokens now, others when they are fetched,
    since there may be billions.

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
        """Return one rank's ids and targets of a step, each (B / world, T) int64.

        The ranks' batches concatenated are the batch of a single rank, so the number of ranks does not change the
        training data.

        Raises:
            ValueError: a step below 0, a world that does not divide the batch, a rank outside the world, or a token
                that is no id.
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
    """Validation batches over all tokens in order: every token but the first is a target exactly once.

    Yields ids and targets of shape (B, T); the last batch may have fewer rows. If the tokens end inside the last row,
    its ids are padded with 0 and its targets with -1, which the loss ignores. Uses no random numbers, so it does not
    affect training. With a vocab_size, checks tokens like `Batches`.

    Raises:
        ValueError: sizes below 1, fewer than two tokens, or a tensor with a token that is no id; at once, not at the
            first batch.
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
    """Return tokens[start:stop] as int64, checked unless `tokens` is a tensor."""
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
    """Check the ids of a tensor, once: on a device, every read waits."""
    if isinstance(tokens, Tensor) and vocab_size is not None:
        check_values(tokens.to(torch.int64), vocab_size)


def _check_sizes(block_size: int, batch_size: int) -> None:
    for what, size in (("block size", block_size), ("batch size", batch_size)):
        if size < 1:
            raise ValueError(f"{what} {size} is below 1")
