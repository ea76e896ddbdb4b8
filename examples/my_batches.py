"""A correct data loader: windows of the text in random order, shared by processes; it starts at any batch.

python -m bench compare --batches examples/my_batches.py:build_batches
"""

import torch


def build_batches(tokens, batch_size, block_size, seed=0, rank=0, world_size=1, start=0):
    """Yield (inputs, targets), (B, T) each, from batch `start` on."""
    rows = (len(tokens) - 1) // block_size
    per_epoch = rows // (batch_size * world_size)
    step = start
    while True:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        first = (place * world_size + rank) * batch_size
        begin = order[first : first + batch_size] * block_size
        index = begin[:, None] + torch.arange(block_size)  # (B, T)
        yield tokens[index], tokens[index + 1]
        step += 1
