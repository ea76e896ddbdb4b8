"""Find where two models first differ: search each activation of the reference among a candidate's tensors.

Names do not matter. An activation is matched if the candidate computed a tensor of the same values in one of its usual
shapes: heads before or after time, batch and time flattened, one tensor per head. An unmatched activation with a
matched descendant is right but hidden (a fused kernel hides its scores). All other unmatched activations are wrong; the
first of them in order of execution is the first difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bench.candidate.recorder import Record
from bench.candidate.traced_gpt import Node, future
from bench.numerics.errors import distance
from reference.config import GPTConfig

MULTIPLE = 1e-6  # a tensor is a multiple of another if the relative residual is below this
OUTPUT = "output"  # the name of the returned logits, after all recorded tensors
PROBED = 32  # elements of a tensor that are compared before the whole of it is


@dataclass(frozen=True)
class Shape:
    """The sizes by which tensors are recognised: B batch, T time, C width, H heads, V vocabulary."""

    B: int
    T: int
    C: int
    H: int
    V: int

    @property
    def D(self) -> int:
        """Width of a head."""
        return self.C // self.H


def shape_of(config: GPTConfig, ids: Tensor) -> Shape:
    """The sizes of a batch of ids (B, T) in a model."""
    B, T = ids.shape
    return Shape(B, T, config.n_embd, config.n_head, config.vocab_size)


def sizes(s: Shape) -> set[int]:
    """Possible numbers of elements of an activation, or of one head of it."""
    rows = s.B * s.T
    return {rows * s.C, rows * 4 * s.C, rows * s.D, rows * s.H * s.T, rows * s.T, rows * s.V, s.T * s.C}


def readings(x: Tensor, form: str, s: Shape) -> Iterator[Tensor]:
    """A tensor in the shape that traced_gpt.py gives activations of a form: one for each possible layout."""
    B, T, C, H, D = s.B, s.T, s.C, s.H, s.D
    shape = tuple(x.shape)
    if form == "positions":
        if shape == (T, C):
            yield x
        elif shape in ((1, T, C), (B, T, C)):
            yield x[0]
        elif shape in ((T, 1, C), (T, B, C)):
            yield x[:, 0]
    elif form in ("stream", "wide", "logits"):
        W = {"stream": C, "wide": 4 * C, "logits": s.V}[form]
        if shape == (B, T, W):
            yield x
        if shape == (T, B, W):
            yield x.transpose(0, 1)
        if shape == (B * T, W):
            yield x.view(B, T, W) if x.is_contiguous() else x.reshape(B, T, W)
    elif form == "heads":
        if shape in ((B, T, C), (B * T, C), (B, T, H, D)):
            yield x.reshape(B, T, H, D).transpose(1, 2)
        if shape == (B, H, T, D):
            yield x
        if shape == (B, H, D, T):
            yield x.transpose(2, 3)
        if shape == (B * H, T, D):
            yield x.reshape(B, H, T, D)
        if shape == (B * H, D, T):
            yield x.reshape(B, H, D, T).transpose(2, 3)
        if shape == (H, B, T, D):
            yield x.transpose(0, 1)
        if shape == (T, B, C):
            yield x.reshape(T, B, H, D).permute(1, 2, 0, 3)
        if shape == (T, B * H, D):
            yield x.reshape(T, B, H, D).permute(1, 2, 0, 3)
    elif form == "square":
        if shape == (B, H, T, T):
            yield x
        if shape == (B * H, T, T):
            yield x.reshape(B, H, T, T)
        if shape == (H, B, T, T):
            yield x.transpose(0, 1)


def head_readings(x: Tensor, form: str, s: Shape) -> Iterator[Tensor]:
    """A tensor as one head of an activation: (B, T, D) for heads, (B, T, T) for squares."""
    shape = tuple(x.shape)
    if form == "heads":
        if shape == (s.B, s.T, s.D):
            yield x
        if shape == (s.B, s.D, s.T):
            yield x.transpose(1, 2)
    elif form == "square" and shape == (s.B, s.T, s.T):
        yield x


def comparable(x: Tensor, form: str) -> Tensor:
    """A reading with the future of squares set to zero, since implementations mask it differently."""
    return x.masked_fill(future(x.shape[-1], x.device), 0.0) if form == "square" else x


@dataclass(frozen=True)
class Match:
    """A candidate's tensor in the shape of an activation, and how far it is from it."""

    error: float  # relative L2; the largest over heads if each is a tensor of its own
    records: tuple[Record, ...]  # one, or one for each head


Reading = tuple[Record, Tensor]  # a tensor of the candidate, and the same in the shape of an activation


def matches_of(wanted: Tensor, form: str, whole: Iterable[Reading], heads: Sequence[Sequence[Reading]]) -> list[Match]:
    """Matches of an activation, nearest first.

    Args:
        wanted: the activation, comparable
        whole, heads: readings of the activation, and of each of its heads
    """
    found = [Match(relative(comparable(x, form), wanted), (record,)) for record, x in whole]
    if heads and all(heads):
        nearest = []
        for h, pieces in enumerate(heads):
            errors = [(relative(comparable(x, form), wanted[:, h]), record) for record, x in pieces]
            nearest.append(min(errors, key=lambda pair: pair[0]))
        found.append(Match(max(error for error, _ in nearest), tuple(record for _, record in nearest)))
    return sorted(found, key=lambda match: match.error)


class Readings:
    """The readings of a candidate's tensors, by form; a few elements of each tell most of those that do not match."""

    def __init__(self, records: Sequence[Record], s: Shape) -> None:
        self.records, self.shape = records, s
        self.of_form: dict[tuple[str, bool], tuple[list[Reading], Tensor]] = {}

    def readings(self, form: str, of_heads: bool) -> tuple[list[Reading], Tensor]:
        """Readings of a form, or of one head of it; and `PROBED` elements of each, (number of readings, PROBED)."""
        if (form, of_heads) not in self.of_form:
            read = head_readings if of_heads else readings
            found = [(record, x) for record in self.records for x in read(record.value, form, self.shape)]
            if of_heads and (self.shape.H == 1 or len(found) < self.shape.H):
                found = []
            elements = [probed(x, form) for _, x in found]
            self.of_form[form, of_heads] = found, torch.stack(elements) if elements else torch.empty(0, PROBED)
        return self.of_form[form, of_heads]

    def matches(self, expected: Tensor, form: str) -> list[Match]:
        """All tensors in a shape that an activation can have, nearest first."""
        whole, pieces = self.readings(form, False)[0], self.readings(form, True)[0]
        return matches_of(comparable(expected, form), form, whole, [pieces] * self.shape.H if pieces else [])

    def matching(self, expected: Tensor, form: str, allowed: float) -> list[Match]:
        """Those of them with at most the allowed error."""
        wanted = comparable(expected.detach(), form)

        def near(x: Tensor, of_heads: bool) -> list[Reading]:
            """Readings whose probed elements are all within the activation's allowed error."""
            found, elements = self.readings(form, of_heads)
            if not found:
                return []
            x = x.to(device="cpu", dtype=torch.float64)
            most = allowed * torch.linalg.vector_norm(x) * 1.000001
            here = probed(x, form)
            close = ((elements - here).abs() <= most) | (elements == here)  # infinities may be equal
            return [found[n] for n in close.all(-1).nonzero().flatten().tolist()]

        heads = [near(wanted[:, h], True) for h in range(self.shape.H)] if self.readings(form, True)[0] else []
        found = matches_of(wanted, form, near(wanted, False), heads)
        return [match for match in found if match.error <= allowed]


def probed(x: Tensor, form: str) -> Tensor:
    """Elements of a reading in float64, (PROBED,): the same places for all of a shape, of squares not the future."""
    random = torch.Generator().manual_seed(0)
    places = [torch.randint(size, (PROBED,), generator=random) for size in x.shape]
    if form == "square":
        places[-1] = torch.minimum(places[-1], places[-2])
    return x.detach()[tuple(places)].to(device="cpu", dtype=torch.float64)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance, infinite if either is not finite: `distance` in fewer operations."""
    a, b = (t.detach().to(device="cpu", dtype=torch.float64) for t in (actual, expected))
    error = float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
    return error if math.isfinite(error) else 0.0 if torch.equal(a, b) else math.inf


@dataclass(frozen=True)
class FirstDifference:
    """Where two models first differ."""

    name: str  # of the first wrong activation, as in traced_gpt.py; "output" if only the returned logits are wrong
    title: str  # the activation in words
    agreed: int  # number of matched activations
    agreed_error: float  # the largest of their errors
    last_agreed: str  # the last of them, in words
    error: float | None = None  # of the nearest tensor; None if no tensor has this shape
    nearest: str | None = None  # operation and module of that tensor
    factor: float | None = None  # its ratio to the right value, if it is a multiple of it
    hidden: tuple[str, ...] = ()  # titles of unmatched activations just before it, which this candidate does not expose
    reordered: bool = False  # a tensor has the right values in another order


@dataclass(frozen=True)
class Runs:
    """One run of the reference and one of a candidate, on the same weights and ids."""

    activations: Mapping[str, Tensor]  # of the reference, by the names of `nodes`
    nodes: Mapping[str, Node]  # see traced_gpt.py
    records: list[Record]  # of the candidate, in order of execution
    shape: Shape
    allowed: float  # the largest relative error of a match
    known: Readings | None = None  # the readings of `records`, if there are some already

    @cached_property
    def read(self) -> Readings:
        """The readings of `records`."""
        return self.known or Readings(self.records, self.shape)

    def matches(self, name: str) -> list[Match]:
        """The candidate's tensors in the shape of an activation, nearest first; none if a mistake leaves it out."""
        if name not in self.activations:
            return []
        return self.read.matches(self.activations[name].detach(), self.nodes[name].form)

    @cached_property
    def matching(self) -> dict[str, list[Match]]:
        """Of every activation, the candidate's tensors that match it."""
        return {
            name: self.read.matching(self.activations[name], node.form, self.allowed)
            if name in self.activations
            else []
            for name, node in self.nodes.items()
        }


def first_difference(runs: Runs, output: Tensor) -> FirstDifference | None:
    """Find the first activation that the candidate computes wrongly.

    Args:
        output: the logits that the candidate returned

    Returns None if no activation is matched, or only the embeddings are and no other tensor has the shape of an
    activation: then the place is unknown.
    """
    activations, nodes = runs.activations, runs.nodes
    matched = {name: of[0] for name, of in runs.matching.items() if of}
    if not matched:
        return None
    right = implied(matched.keys(), nodes)
    last = max(matched, key=list(nodes).index)
    worst = max(match.error for match in matched.values())
    before = (len(matched), worst, f"{nodes[last].title} ({matched[last].records[-1]})")
    for name, node in nodes.items():
        if name in right or not all(parent in right for parent in node.parents):
            continue
        # the first wrong activation with a tensor of its shape; those before it are hidden in the same call
        hidden: list[str] = []
        for later in downstream(name, nodes, right):
            known = [matched[p].records[-1].number for p in nodes[later].parents if p in matched]
            after = [match for match in runs.matches(later) if match.records[-1].number > max(known, default=-1)]
            if after:
                nearest, factor = most_alike(after, activations[later], nodes[later].form, runs.shape)
                return FirstDifference(
                    later,
                    nodes[later].title,
                    *before,
                    error=nearest.error,
                    nearest=str(nearest.records[0]),
                    factor=factor,
                    hidden=tuple(nodes[h].title for h in hidden),
                    reordered=any(same_numbers(r.value, activations[later]) for m in after for r in m.records),
                )
            hidden.append(later)
        if matched.keys() <= {"tokens", "positions"}:
            return None
        return FirstDifference(name, node.title, *before)
    return FirstDifference(
        OUTPUT, "the returned logits", *before, error=relative(output, activations["logits"].detach())
    )


def most_alike(found: list[Match], expected: Tensor, form: str, s: Shape) -> tuple[Match, float | None]:
    """The match nearest in direction to the activation, and its factor if it is a multiple of the activation.

    By direction and not by distance: wrong scores are nearer to a multiple of the scores than to attention weights.
    """
    wanted = comparable(expected.detach(), form).flatten()

    def fit(match: Match) -> tuple[float, float]:
        if len(match.records) > 1:
            return match.error, 1.0
        best = (math.inf, 1.0)
        for x in readings(match.records[0].value, form, s):
            x = comparable(x, form).double().flatten()
            factor = float(x @ wanted / (wanted @ wanted))
            rest = float(torch.linalg.vector_norm(x - factor * wanted) / torch.linalg.vector_norm(x))
            best = min(best, (rest if math.isfinite(rest) else math.inf, factor))
        return best

    fits = sorted([(*fit(match), match) for match in found], key=lambda one: one[2].records[-1].number)
    multiples = [one for one in fits if one[0] < MULTIPLE]
    if not multiples:
        return min(fits, key=lambda one: one[0])[2], None
    # of several multiples the model continues with the last; the first tensor equal to it shows where it is made
    _, last, _ = multiples[-1]
    _, factor, nearest = next(one for one in multiples if abs(one[1] - last) <= MULTIPLE * abs(last))
    return nearest, factor


def implied(matched: Iterable[str], nodes: Mapping[str, Node]) -> set[str]:
    """The matched activations and all their ancestors, which must be right too."""
    right: set[str] = set()
    for name in reversed(list(nodes)):
        if name in matched or name in right:
            right |= {name, *nodes[name].parents}
    return right


def downstream(name: str, nodes: Mapping[str, Node], right: set[str]) -> Iterator[str]:
    """A wrong activation and its wrong descendants, in order of execution."""
    reached: set[str] = set()
    for later, node in nodes.items():
        if later == name or (reached & set(node.parents) and later not in right):
            reached.add(later)
            yield later


def same_numbers(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors hold the same values in any order; unknown, so False, if many values are equal."""
    if actual.numel() != expected.numel() or not actual.isfinite().all():
        return False
    a, b = (t.detach().cpu().double().flatten().sort().values for t in (actual, expected))
    if int((b.diff() <= 1e-9 * float(b.abs().max())).sum()) > b.numel() // 2:  # the future of sharp attention: zeros
        return False
    return math.isfinite(float(b.sum())) and distance(a, b)[0] < 1e-9


@dataclass(frozen=True)
class LostGradient:
    """Where the backward pass first gives a wrong gradient of an activation."""

    name: str
    title: str
    error: float  # relative L2; 1 if there is no gradient
    nearest: str  # operation and module of the candidate's tensor
    agreed: int  # number of later activations whose gradients agree


def first_lost_gradient(runs: Runs, allowed: float) -> LostGradient | None:
    """Go back from the loss through the matched activations to the first wrong gradient.

    Args:
        runs: after a backward pass of both models, with gradients kept
        allowed: the largest relative error of a gradient

    Returns None if all known gradients agree.
    """
    agreed, detached = 0, None
    for name in reversed(list(runs.nodes)):
        node, expected = runs.nodes[name], runs.activations[name]
        if expected.grad is None:
            continue
        found = runs.matching[name]
        # tensors after the cut need no gradient at all: the cut is further back, at one that does
        attached = [match for match in found if all(record.tensor.requires_grad for record in match.records)]
        errors = [(gradient_error(match, expected.grad, node.form, runs.shape), match) for match in attached]
        if found and not errors and detached is None:
            detached = LostGradient(name, node.title, 1.0, str(found[0].records[0]), agreed)
        if not errors:
            continue
        error, match = min(errors, key=lambda pair: pair[0])
        if error > allowed:
            return LostGradient(name, node.title, error, str(match.records[0]), agreed)
        agreed += 1
    return detached


def gradient_error(match: Match, expected: Tensor, form: str, s: Shape) -> float:
    """The relative error of a match's gradients, the largest over its tensors; 1 if there is no gradient."""
    errors = []
    single = len(match.records) == 1
    for h, record in enumerate(match.records):
        grad = record.tensor.grad
        if grad is None:
            return 1.0
        wanted = expected if single else expected[:, h]
        ways = list(readings(grad, form, s)) or list(head_readings(grad, form, s))
        errors.append(min(relative(comparable(x, form), comparable(wanted, form)) for x in ways))
    return max(errors)
