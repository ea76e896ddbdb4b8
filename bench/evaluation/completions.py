"""Compare a user's choice between completions, as in HellaSwag, with the reference's and with known mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.evaluation.audit import BUDGET, TRAIN_MODE, WHO, Tell, Watched, watched
from bench.user_code.fault import Fault
from bench.user_code.refused import Refused, called
from bench.user_code.small_gpt import CONFIG

QUESTIONS = 48
CONTEXTS = (3, 9)  # tokens before the completions, least and most
LENGTHS = ((2, 7, 4, 5), (6, 1, 3, 2), (3, 3, 8, 1))  # of a question's completions, in turn
NAMES = {  # our word: the names that functions give the argument
    "tokens": ("tokens", "ids", "input_ids", "idx", "x"),
    "mask": ("mask", "completion_mask", "loss_mask"),
    "logits": ("logits",),
    "model": ("model",),
}
SHIFTED = "logits[:, :-1], tokens[:, 1:] and mask[:, 1:] belong together: the mask is cut as the targets are"
MASKED = "multiply the losses by mask[:, 1:], and divide their sum by its sum"
MEAN, SUM = "the mean over a completion's tokens", "the sum over a completion's tokens"
LATE = "the mask is one token late: a completion's first token is left out, the one after its last counts"
EARLY = "the mask is one token early: the context's last token counts, a completion's last is left out"
CONTEXT = "tokens of the context count too"
UNMASKED = "the mask is not used: context and padding count"
FIRST = "the first token of a completion alone"
UNSHIFTED = "logits are compared with the tokens of their own place: not shifted"
LEAST = "the least likely row is chosen"
REMEDIES = {LATE: SHIFTED, EARLY: SHIFTED, UNSHIFTED: SHIFTED, LEAST: "argmin of the mean losses"}  # else MASKED


@dataclass
class Choices:
    """The result of testing a choice between completions.

    Args:
        chosen: whether the function returns a row, or else the losses of all rows
        values, expected: rows, or losses, of all questions in turn
    """

    name: str
    chosen: bool
    values: list[float]
    expected: list[float]
    by_sum: bool = False
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def different(self) -> int:
        """The number of values that differ."""
        return len(self.values) - agreeing(self.values, self.expected)

    @property
    def same(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, for --json."""
        return {
            "kind": "evaluation",
            "evaluation": self.name,
            "same": self.same,
            "found": self.values,
            "expected": self.expected,
            "budget": BUDGET,
            "faults": [asdict(one) for one in self.faults],
            "notes": self.notes,
        }


def chooses(function: Callable[..., Any]) -> bool:
    """Whether a function must be given the mask of completions."""
    name = arguments(function).get("mask")
    return name is not None and inspect.signature(function).parameters[name].default is inspect.Parameter.empty


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """A function's arguments that are known: our word -> its name."""
    try:
        own = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    found = {word: next((name for name in names if name in own), None) for word, names in NAMES.items()}
    return {word: name for word, name in found.items() if name is not None}


@dataclass(frozen=True)
class Question:
    """Tokens (4, T), padded at the right with 0, and a mask (4, T): 1 for tokens of the completion."""

    tokens: Tensor
    mask: Tensor


def questions(seed: int) -> list[Question]:
    """Four completions of one context each, of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(QUESTIONS):
        lengths = torch.tensor(LENGTHS[number % len(LENGTHS)])
        context = int(torch.randint(*CONTEXTS, (1,), generator=generator))
        columns = torch.arange(context + int(lengths.max()) + 1)
        tokens = torch.randint(1, CONFIG.vocab_size, (len(lengths), len(columns)), generator=generator)
        tokens[:, :context] = tokens[0, :context]
        real = columns < context + lengths[:, None]
        found.append(Question(tokens * real, (real & (columns >= context)).long()))
    return found


def audit_choices(function: Callable[..., Any], *, name: str, seed: int = 0, tell: Tell = lambda what: None) -> Choices:
    """Test a function that chooses the most likely completion.

    Args:
        function: of tokens and mask, and of model or logits, by name -> the row, or the mean loss of each row
        seed: of weights and tokens

    Raises ValueError, one line, if it cannot be run or returns something else.
    """
    own = arguments(function)
    if "tokens" not in own or not {"model", "logits"} & own.keys():
        raise Refused(f"{WHO}: a function of a mask takes tokens, and model or logits, by these names")
    model, asked = watched(seed), questions(seed)
    with torch.no_grad():
        logits = [model(question.tokens) for question in asked]
    model.train()
    model.training_calls = model.with_graph = model.calls = 0
    tell("the most likely completion")
    answers = [answer(function, own, model, question, x) for question, x in zip(asked, logits, strict=True)]
    kinds = {len(one) == 1 for one in answers}
    if len(kinds) > 1:
        raise Refused(f"{WHO}: the function returns a row for some questions and losses for others: give one of them")
    (chosen,) = kinds
    values = [value for one in answers for value in one]
    if not chosen and max(values) <= 0.0:
        values = [-value for value in values]  # log-likelihoods
    known = {what: told(losses, chosen) for what, losses in mistakes(logits, asked).items()}
    result = Choices(name, chosen, values, known[MEAN])
    if model.training_calls:
        calls = f"{model.training_calls} of {model.calls} calls of the model"
        result.faults.append(Fault(TRAIN_MODE, calls, "call model.eval() before"))
    elif result.different and equal(values, known[SUM]):
        result.by_sum = True
        result.notes.append("it takes the sum of a completion's losses, which short ones win, not their mean")
    elif result.different:
        tell("known mistakes")
        result.faults.append(explained(result, known))
    return result


def answer(
    function: Callable[..., Any], own: dict[str, str], model: Watched, question: Question, logits: Tensor
) -> list[float]:
    """What a function returns for one question: a row alone, or the losses of all rows."""
    given: dict[str, Any] = {"tokens": question.tokens, "mask": question.mask, "logits": logits, "model": model}
    copies = {name: given[word].clone() if word != "model" else model for word, name in own.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = called(lambda: function(**copies), "the function", WHO)
    rows = len(question.tokens)
    if isinstance(found, int) or (isinstance(found, Tensor) and found.numel() == 1 and not found.is_floating_point()):
        return [float(found)]
    if isinstance(found, (Tensor, list, tuple)) and len(found) == rows and rows > 1:
        return [float(value) for value in found]
    raise Refused(
        f"{WHO}: the function returned {type(found).__name__}: return the most likely row, a whole number, or the mean "
        f"loss of each of the {rows} rows"
    )


def mistakes(logits: Sequence[Tensor], asked: Sequence[Question]) -> dict[str, list[Tensor]]:
    """The losses (4) of every question, by the right way, which comes first, and by known mistakes."""
    found: dict[str, list[Tensor]] = {}
    for x, question in zip(logits, asked, strict=True):
        for what, losses in of_question(x, question.tokens, question.mask.double()).items():
            found.setdefault(what, []).append(losses)
    return found


def of_question(logits: Tensor, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Losses (4) of one question.

    Args:
        logits: (4, T, V)
        tokens, mask: (4, T)
    """
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")  # (4, T - 1)
    own = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")  # (4, T), of each place's own token
    right, late, early = mask[:, 1:], mask[:, :-1], F.pad(mask[:, 2:], (0, 1))
    real = mask.flip(1).cummax(dim=1).values.flip(1)[:, 1:]  # up to the completion's end
    first = right * (right.cumsum(dim=1) == 1.0)

    def mean(weights: Tensor, losses: Tensor = each) -> Tensor:
        return (losses * weights).sum(1) / weights.sum(1)

    return {
        MEAN: mean(right),
        SUM: (each * right).sum(1),
        LATE: mean(late),
        EARLY: mean(early),
        CONTEXT: mean(real),
        UNMASKED: each.mean(1),
        FIRST: mean(first),
        UNSHIFTED: mean(mask, own),
        LEAST: -mean(right),
    }


def told(losses: Sequence[Tensor], chosen: bool) -> list[float]:
    """What a function returns that has these losses: the row with the least, or all of them."""
    return [float(one.argmin()) for one in losses] if chosen else torch.cat(list(losses)).tolist()


def agreeing(values: Sequence[float], others: Sequence[float]) -> int:
    """The number of values that are the same."""
    return sum(abs(a - b) <= BUDGET * abs(b) for a, b in zip(values, others, strict=True))


def equal(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether all values are the same."""
    return agreeing(values, others) == len(values)


def explained(result: Choices, known: dict[str, list[float]]) -> Fault:
    """The known mistake that gives the user's values."""
    unit = "rows" if result.chosen else "losses"
    number = len(result.values)
    for what, values in known.items():
        if equal(result.values, values):
            return Fault(what, f"with this mistake all {number} {unit} are yours", REMEDIES.get(what, MASKED))
    return Fault("another choice, of no known mistake", f"{result.different} of {number} {unit} differ", MASKED)
