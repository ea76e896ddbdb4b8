"""A correct validation loss, added up over all batches and divided once, and a correct choice between completions.

python -m bench compare --evaluate examples/my_evaluate.py:evaluate
python -m bench compare --evaluate examples/my_evaluate.py:most_likely
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


def most_likely(tokens, mask, logits):
    """The row with the least mean loss over the tokens (R, T) of its completion, where mask is 1, as in HellaSwag."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")  # (R, T - 1)
    counted = mask[:, 1:]
    return ((losses * counted).sum(1) / counted.sum(1)).argmin().item()
