"""The loss slot: hidden states (B, T, C), the table, targets (B, T) -> a scalar.

    plain_loss   all logits at once, then cross-entropy by hand
    fused_loss   head and cross-entropy in chunks of rows: the B x T x V logits never exist

The fused loss computes its gradient in the forward pass, while a chunk's logits exist: the gradient of the mean loss
with respect to a row of logits is (softmax - onehot) / N, and N, the number of counted targets, is known before the
first chunk. The backward pass only scales it. Hsu et al. 2024, https://arxiv.org/abs/2410.10989, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from optimized.embedding import ExactTable
from reference.functional import IGNORED, cross_entropy

CHUNK_BYTES = 64 * 2**20  # of a chunk's logits, in the precision of the products


def plain_loss(x: Tensor, table: ExactTable, targets: Tensor) -> Tensor:
    """The reference's loss, in float32 at least."""
    logits = table.logits(x)  # (B, T, V)
    return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def fused_loss(x: Tensor, table: ExactTable, targets: Tensor) -> Tensor:
    """The same in chunks of rows, with products in the autocast dtype if it is on, else in that of x."""
    return chunked_loss(x.flatten(0, -2), table.weight, targets.flatten(), table.vocab_size)


def chunked_loss(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, rows: int | None = None) -> Tensor:
    """Mean cross-entropy of x weight^T against targets, `rows` rows at a time.

    Args:
        x: (N, C)
        weight: (V or more, C); rows from V on take no part
        targets: (N,) int64, below V; -1 does not count
        vocab_size: V
        rows: of a chunk, at least 1; the last one may have fewer. None for the fewest chunks of equal height with at
            most `CHUNK_BYTES` of logits each.

    Returns a scalar, in float32 at least; NaN if no target counts.
    """
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()  # or their gradients would be computed in the forward pass
    kind = x.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if rows is None:
        most = max(1, CHUNK_BYTES // (len(weight) * compute.itemsize))
        chunks = math.ceil(len(x) / most)
        # of equal height: a small last chunk would be a slow product
        rows = math.ceil(len(x) / chunks) if chunks else 1
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
        count = counted.sum()
        share = counted.to(exact) / count.clamp(min=1)  # of each row in the mean
        index = targets.masked_fill(~counted, 0).unsqueeze(-1)  # (N, 1)
        loss = torch.zeros((), dtype=exact, device=x.device)
        dx = torch.empty_like(x) if wants_x else None
        dweight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        with torch.autocast(x.device.type, enabled=False):
            table, x = weight.to(compute), x.to(compute)
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                logits = x[part] @ table.T  # (rows, V or more)
                loss += to_gradient(logits, index[part], share[part, None], vocab_size)
                if dx is not None:
                    dx[part] = logits @ table
                if dweight is not None and compute == exact:
                    dweight.addmm_(logits.T, x[part])
                elif dweight is not None:
                    dweight += logits.T @ x[part]
                del logits  # or the next chunk's would stand beside them
        ctx.save_for_backward(dx, dweight)
        ctx.weight_dtype = weight.dtype
        return loss / (count > 0)  # 0 / 0 if nothing counts; its gradient is zero, as the reference's

    @staticmethod
    @once_differentiable  # the gradients in hand are constants to autograd: a second derivative would be wrong
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight = ctx.saved_tensors
        return (
            None if dx is None else (dx * grad).to(dx.dtype),
            None if dweight is None else (dweight * grad).to(ctx.weight_dtype),
            *(None,) * 4,
        )


def to_gradient(logits: Tensor, index: Tensor, share: Tensor, vocab_size: int) -> Tensor:
    """Replace logits by the loss's gradient with respect to them, in place; returns their share of the loss.

    Args:
        logits: (rows, V or more), in the precision of the products
        index: (rows, 1), the target
        share: (rows, 1), weight of each row, in the precision of the softmax
        vocab_size: V
    """
    log_p = logits[:, :vocab_size].to(share.dtype).log_softmax(dim=-1)
    loss = -(log_p.gather(-1, index) * share).sum()
    gradient = log_p.exp_()
    gradient.scatter_add_(-1, index, torch.full_like(index, -1, dtype=share.dtype))
    torch.mul(gradient, share, out=logits[:, :vocab_size])  # rounds to the precision of the products
    logits[:, vocab_size:] = 0.0
    return loss
