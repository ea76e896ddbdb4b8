"""A correct validation loss: losses and targets are added up over all batches, and divided once.

python -m bench compare --evaluate examples/my_evaluate.py:evaluate
"""

import torch
import torch.nn.functional as F


@torch.no_grad()
def evaluate(model, batches):
    """The mean loss over all targets; targets of -1 are ignored."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for ids, targets in batches:
        logits, _ = model(ids, targets)
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum").item()
        count += (targets != -1).sum().item()
    model.train(was_training)
    return total / count
