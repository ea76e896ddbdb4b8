"""A correct training step for several processes: DistributedDataParallel, which exchanges the last micro-batch's sum.

python -m bench compare --step examples/my_ddp_step.py:build_step --ranks 2
"""

import math

import torch
from torch.nn.parallel import DistributedDataParallel


def build_step(model, hyperparameters):
    """`model(ids, targets)` returns (logits, loss), as nanoGPT's; the process group is joined."""
    h = hyperparameters
    model = DistributedDataParallel(model)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": h.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=h.learning_rate, betas=h.betas, eps=h.eps)
    done = 0

    def learning_rate(step):
        if step < h.warmup:
            return h.learning_rate * (step + 1) / h.warmup
        if step >= h.total:
            return h.floor
        share = (step - h.warmup) / (h.total - h.warmup)
        return h.floor + 0.5 * (1.0 + math.cos(math.pi * share)) * (h.learning_rate - h.floor)

    def step(micro_batches):
        nonlocal done
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done)
        optimizer.zero_grad()
        count = sum(targets.numel() for _, targets in micro_batches)  # the same on every rank
        total = 0.0
        for number, (ids, targets) in enumerate(micro_batches):
            model.require_backward_grad_sync = number == len(micro_batches) - 1
            _, loss = model(ids, targets)
            loss = loss * targets.numel() / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), h.clip)
        optimizer.step()
        done += 1
        return total

    return step
