"""Compare a user's validation loss with the mean over all targets, and with what known mistakes give instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.evaluation.known_mistakes import WEIGH, mean, mistakes
from bench.numerics.budgets import BUDGETS
from bench.numerics.inputs import sharp_state_dict
from bench.user_code.fault import Fault
from bench.user_code.refused import Refused, called
from bench.user_code.small_gpt import CONFIG, Batch, UserGPT

SHAPES = ((3, 16), (3, 16), (2, 9), (1, 5))  # (B, T) of the batches
IGNORED = 0.25  # share of targets that are -1
BUDGET = BUDGETS["float32"].loss  # many collect losses in a tensor of float32
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

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, for --json."""
        return {
            "kind": "evaluation",
            "evaluation": self.name,
            "same": self.same,
            "found": self.found,
            "expected": self.expected,
            "budget": BUDGET,
            "faults": [asdict(one) for one in self.faults],
            "notes": self.notes,
        }


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
        result.notes.append("the model stays in eval mode: training would continue without dropout")
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


def explained(result: Audit, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Fault:
    """The known mistake that gives the user's number."""
    for value, (what, remedy) in mistakes(logits, targets).items():
        if abs(result.found - value) <= BUDGET * abs(value):
            return Fault(what, f"it is {value:.6f}, and yours {result.found:.6f}", remedy)
    return Fault("another number, of no known mistake", f"yours is {result.found:.6f}", WEIGH)
