"""What known mistakes give in place of the mean loss over all targets, with what to do about each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

BITS = math.log(2.0)
WEIGH = "add up losses and targets over all batches, and divide once"


def each(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target, (B, T); 0 where it is ignored."""
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    return flat.view(targets.shape)


def mean(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """The mean over all targets that are not ignored."""
    return sums(logits, targets) / sum(int((y >= 0).sum()) for y in targets)


def sums(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """The sum over all targets."""
    return sum(float(each(x, y).sum()) for x, y in zip(logits, targets, strict=True))


def mistakes(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[float, tuple[str, str]]:
    """What known mistakes give, with their names and remedies."""
    right = mean(logits, targets)
    means = [mean([x], [y]) for x, y in zip(logits, targets, strict=True)]
    pairs = [pair for x, y in zip(logits, targets, strict=True) for pair in zip(x[:, None], y[:, None], strict=True)]
    rows = [mean([x], [y]) for x, y in pairs]
    sizes = [len(y) for y in targets]
    by_rows = sum(m * n for m, n in zip(means, sizes, strict=True)) / sum(sizes)
    by_all = sum(m * y.numel() for m, y in zip(means, targets, strict=True)) / sum(y.numel() for y in targets)
    shifted = [y[:, 1:] for y in targets]
    of_means = sum(means) / len(means)
    found = {
        "the mean of the batches' means": (of_means, WEIGH),
        "the batches' means, weighted by their rows": (by_rows, WEIGH),
        "the batches' means, weighted by all targets, ignored ones too": (by_all, "count targets that are not -1"),
        "the mean of the rows' means": (sum(rows) / len(rows), WEIGH),
        "ignored targets count as losses of 0": (
            sums(logits, targets) / sum(y.numel() for y in targets),
            "divide by the number of targets that are not -1",
        ),
        "the sum over targets": (sums(logits, targets), "divide by the number of targets"),
        "the sum of the batches' means": (sum(means), WEIGH),
        "the first batch alone": (means[0], WEIGH),
        "the last batch alone": (means[-1], WEIGH),
        "all batches but the last": (mean(logits[:-1], targets[:-1]), "the last batch counts, though it is smaller"),
        "all means but the last's": (sum(means[:-1]) / (len(means) - 1), WEIGH),
        "bits per token, not nats": (right / BITS, "cross-entropy in nats: no division by ln 2"),
        "the perplexity": (math.exp(right), "return the loss, without exp"),
        "the perplexity of the mean of the batches' means": (math.exp(of_means), f"without exp; {WEIGH}"),
        "the mean of the batches' perplexities": (
            sum(map(math.exp, means)) / len(means),
            "exp of a mean, never a mean of exps",
        ),
        "targets are shifted once more": (
            mean([x[:, :-1] for x in logits], shifted),
            "targets are the next tokens already: compare logits and targets of the same place",
        ),
        "the loss of each row's last target alone": (
            mean([x[:, -1:] for x in logits], [y[:, -1:] for y in targets]),
            "take the logits of all positions",
        ),
    }
    return {value: (what, remedy) for what, (value, remedy) in reversed(found.items())}
