"""Right functions for the validation loss, one-line mistakes in them, and words of the fault that must be named."""

from __future__ import annotations

from pathlib import Path

RIGHT = (Path(__file__).parents[3] / "examples" / "my_evaluate.py").read_text()

# nanoGPT's way: the mean of the batches' means, collected in float32
MEANS = """
import torch

@torch.no_grad()
def evaluate(model, batches):
    model.eval()
    losses = torch.zeros(len(batches))
    for k, (x, y) in enumerate(batches):
        logits, loss = model(x, y)
        losses[k] = loss.item()
    model.train()
    return losses.mean()
"""

TOTAL = 'reduction="sum").item()'
COUNT = "(targets != -1).sum().item()"
RETURN = "    return total / count\n"
MISTAKES: dict[str, tuple[str, str, str, str]] = {  # source, edit, words of the fault; in brackets: a public bug
    "mean of means [40]": (MEANS, "", "", "the mean of the batches' means"),
    "weighted by rows": (
        RIGHT.replace(TOTAL, 'reduction="mean").item() * len(ids)'),
        COUNT,
        "len(ids)",
        "weighted by their rows",
    ),
    "ignored ones count": (RIGHT, COUNT, "targets.numel()", "ignored targets count as losses of 0"),
    "a sum": (RIGHT, RETURN, "    return total\n", "the sum over targets"),
    "bits": (RIGHT, RETURN, "    return total / count / 0.6931471805599453\n", "bits per token"),
    "perplexity": (RIGHT, RETURN, "    return float(torch.tensor(total / count).exp())\n", "the perplexity"),
    "shifted once more [18]": (
        RIGHT,
        "logits, _ = model(ids, targets)\n",
        "logits, _ = model(ids, targets)\n        logits, targets = logits[:, :-1], targets[:, 1:]\n",
        "shifted once more",
    ),
    "the last batch dropped": (RIGHT, "in batches:", "in batches[:-1]:", "all batches but the last"),
    "in train mode [16]": (RIGHT, "    model.eval()\n", "", "train mode"),
    "of no known kind": (RIGHT, RETURN, "    return 2.0 * total / count\n", "another number"),
}
