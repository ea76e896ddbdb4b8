"""The seam of the loss: hidden states (B, T, C), the table, targets (B, T) -> a scalar.

    plain_loss   all logits at once, then cross-entropy by hand
    fused_loss   head and cross-entropy together, some rows at a time: the B x T x V logits never exist

The fused one computes the gradient in the forward pass, while a chunk's logits are there: the gradient of the mean loss
with respect to a row of logits is (softmax - onehot) / N, and N, the number of counted targets, is known before the
first chunk. The backward pass only scales it. Hsu et al. 2024, https://arxiv.org/abs/2410.10989, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optimized.vocab import ExactTable
from reference.functional import IGNORED, cross_entropy

CHUNK_BYTES = 128 * 2**20  # of a chunk's logits in float32


def plain_loss(x: Tensor, table: ExactTable, targets: Tensor) -> Tensor:
    """The reference's loss, in float32 at least."""
    logits = table.logits(x)  # (B, T, V)
    return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def fused_loss(x: Tensor, table: ExactTable, targets: Tensor) -> Tensor:
    """The same in chunks of rows; products in the precision of autocast, if it is on, else in that of x."""
    rows = max(1, CHUNK_BYTES // (4 * table.weight.shape[0]))
    return chunked_loss(x.flatten(0, -2), table.weight, targets.flatten(), table.vocab_size, rows)


def chunked_loss(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, rows: int) -> Tensor:
    """Mean cross-entropy of x weight^T against targets, `rows` rows at a time.

    Args:
        x: (N, C)
        weight: (V or more, C); rows from V on take no part
        targets: (N,) int64, below V; -1 does not count
        vocab_size: V
        rows: at least 1; the last chunk has what is left

    Returns a scalar, in float32 at least; not a number if nothing counts.
    """
    kind = x.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    loss: Tensor = HeadAndLoss.apply(x, weight, targets, vocab_size, rows, compute)  # type: ignore[no-untyped-call]
    return loss


class HeadAndLoss(torch.autograd.Function):
    """Loss and gradients in one pass; see `chunked_loss`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, rows: int, compute: torch.dtype
    ) -> Tensor:
        exact = torch.promote_types(compute, torch.float32)  # of softmax, loss, and sums over chunks
        wants_x, wants_weight, *_ = ctx.needs_input_grad
        counted = targets != IGNORED  # (N,)
        share = counted.to(exact) / counted.sum()  # of each row in the mean; 0 / 0 if nothing counts
        index = targets.masked_fill(~counted, 0).unsqueeze(-1)  # (N, 1)
        total = torch.zeros((), dtype=exact, device=x.device)
        dx = torch.empty_like(x) if wants_x else None
        dweight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        with torch.autocast(x.device.type, enabled=False):
            table, x = weight.to(compute), x.to(compute)
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                logits = x[part] @ table.T  # (rows, V or more)
                logits[:, vocab_size:] = -math.inf
                log_p = logits.log_softmax(dim=-1, dtype=exact)
                total -= log_p.gather(-1, index[part]).squeeze(-1) @ share[part]
                if dx is None and dweight is None:
                    continue
                dlogits = log_p.exp_()
                dlogits.scatter_add_(-1, index[part], dlogits.new_full((1, 1), -1.0).expand_as(index[part]))
                dlogits = torch.mul(dlogits, share[part, None], out=logits)  # rounds to the precision of the products
                if dx is not None:
                    dx[part] = dlogits @ table
                if dweight is not None:
                    dweight += dlogits.T @ x[part]
        ctx.save_for_backward(dx, dweight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight = ctx.saved_tensors
        return (
            None if dx is None else (dx * grad).to(dx.dtype),
            None if dweight is None else (dweight * grad).to(ctx.weight_dtype),
            *(None,) * 4,
        )
