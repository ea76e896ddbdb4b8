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

COUNTED = "counted = mask[:, 1:]"
LEAST = ".argmin().item()"
# of the choice between completions in the same file: an edit, and words of the fault
CHOICES: dict[str, tuple[str, str, str]] = {
    "mask off by one [39]": (COUNTED, "counted = mask[:, :-1]", "the mask is one token late"),
    "mask off by one, early": (COUNTED, "counted = F.pad(mask[:, 2:], (0, 1))", "the mask is one token early"),
    "no mask": (COUNTED, "counted = torch.ones_like(mask[:, 1:])", "the mask is not used"),
    "the context counts": (COUNTED, "counted = (tokens[:, 1:] != 0).long()", "tokens of the context count too"),
    "the first token": (COUNTED, "counted = mask[:, 1:] * (1 - mask[:, :-1])", "the first token of a completion alone"),
    "not shifted": (
        "F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], ",
        "F.cross_entropy(logits[:, 1:].transpose(1, 2), tokens[:, 1:], ",
        "not shifted",
    ),
    "argmax": (LEAST, ".argmax().item()", "the least likely row is chosen"),
    "of no known kind": (LEAST, ".argsort()[1].item()", "another choice, of no known mistake"),
}
