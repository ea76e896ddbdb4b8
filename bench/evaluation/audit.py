"""Hold a user's validation loss against the mean over all targets, and against what known mistakes give instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.candidate.fault import Fault
from bench.candidate.refused import Refused, called
from bench.numerics.budgets import BUDGETS
from bench.numerics.inputs import sharp_state_dict
from bench.training_step.record import CONFIG, Batch, UserGPT

SHAPES = ((3, 16), (3, 16), (2, 9), (1, 5))  # (B, T) of the batches
IGNORED = 0.25  # share of targets that are -1
BUDGET = BUDGETS["float32"].loss  # many collect losses in a tensor of float32
BITS = math.log(2.0)
WHO = "evaluation"  # in messages
TRAIN_MODE = "the model is in train mode: dropout is on"

Tell = Callable[[str], None]


@dataclass
class Audit:
    """The result of testing an evaluation.

    Args:
        found, expected: losses; found is a number
    """

    name: str
    found: float
    expected: float
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Relative distance of the losses."""
        error = abs(self.found - self.expected) / abs(self.expected)
        return error if math.isfinite(error) else math.inf

    @property
    def same(self) -> bool:
        """Whether nothing is wrong."""
        return self.error <= BUDGET and not self.faults


class Watched(UserGPT):
    """The model that a user's function gets: it remembers how it was called."""

    def __init__(self) -> None:
        super().__init__(replace(CONFIG, dropout=0.1))
        self.training_calls, self.with_graph, self.calls = 0, 0, 0

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        self.calls += 1
        self.training_calls += self.training
        self.with_graph += torch.is_grad_enabled()
        return super().forward(ids, targets)


def watched(seed: int) -> Watched:
    """The model in float64 and eval mode; its losses are far apart, and so are the means of different mistakes."""
    model = Watched().double()
    model.load_state_dict(sharp_state_dict(CONFIG, seed))
    return model.eval()


def batches_of(seed: int) -> list[Batch]:
    """Ids and targets, (B, T) each; a quarter of the targets is -1."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in SHAPES:
        ids, targets = (torch.randint(CONFIG.vocab_size, shape, generator=generator) for _ in range(2))
        found.append((ids, targets.masked_fill(torch.rand(shape, generator=generator) < IGNORED, -1)))
    return found


def audit(
    evaluate: Callable[..., Any], *, name: str = "the evaluation", seed: int = 0, tell: Tell = lambda what: None
) -> Audit:
    """Test a function that measures the validation loss.

    Args:
        evaluate: (model, batches) -> loss, a number or a scalar tensor
        seed: of weights and tokens

    Raises ValueError, one line, if it cannot be run or returns something else.
    """
    model, batches = watched(seed), batches_of(seed)
    with torch.no_grad():
        logits = [model(ids) for ids, _ in batches]
    model.train()
    model.training_calls = model.with_graph = model.calls = 0
    tell("the mean over all targets")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given = called(
            lambda: evaluate(model, [(ids.clone(), targets.clone()) for ids, targets in batches]), "evaluate", WHO
        )
    targets = [targets for _, targets in batches]
    result = Audit(name, number(given), mean(logits, targets))
    if model.training_calls:
        calls = f"{model.training_calls} of {model.calls} calls of the model"
        result.faults.append(Fault(TRAIN_MODE, calls, "call model.eval() before"))
    elif not result.error <= BUDGET:
        tell("known mistakes")
        result.faults.append(explained(result, logits, targets))
    if not model.training:
        result.notes.append("the model stays in eval mode: a training run would go on without dropout")
    if model.with_graph:
        result.notes.append("gradients are recorded: torch.no_grad() saves memory and time")
    return result


def number(given: Any) -> float:
    """A loss as a number."""
    if isinstance(given, Tensor) and given.numel() == 1:
        return float(given.detach())
    if isinstance(given, (int, float)):
        return float(given)
    raise Refused(f"{WHO}: evaluate returned {type(given).__name__}: return the mean loss, a number")


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


WEIGH = "add up losses and targets over all batches, and divide once"


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


def explained(result: Audit, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Fault:
    """The known mistake that gives the user's number."""
    for value, (what, remedy) in mistakes(logits, targets).items():
        if abs(result.found - value) <= BUDGET * abs(value):
            return Fault(what, f"it is {value:.6f}, and yours {result.found:.6f}", remedy)
    return Fault("another number, of no known mistake", f"yours is {result.found:.6f}", WEIGH)
