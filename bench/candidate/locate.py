"""Where two models first differ: the readable GPT's activations, each looked for among what a candidate computed.

No names are needed. An activation of the reference has been met if the candidate computed a tensor with its numbers, in
one of the shapes that people give it: heads before or behind the time, batch and time in one, a tensor for each head.
One that was not met, although something later was, is not visible in this candidate (a fused kernel hides its scores).
What is left is wrong, and the first of it in order of execution is where the models part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.candidate.recorder import Record
from bench.candidate.traced_gpt import Node, future
from bench.numerics.errors import distance
from reference.config import GPTConfig

MULTIPLE = 1e-6  # what is left of a multiple, relative to it
OUTPUT = "output"  # what the candidate returned, after all that it computed


@dataclass(frozen=True)
class Shape:
    """The sizes by which tensors are read."""

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
    """Of a batch in a model."""
    B, T = ids.shape
    return Shape(B, T, config.n_embd, config.n_head, config.vocab_size)


def sizes(s: Shape) -> set[int]:
    """Numbers of elements that an activation, or one head of it, can have."""
    rows = s.B * s.T
    return {rows * s.C, rows * 4 * s.C, rows * s.D, rows * s.H * s.T, rows * s.T, rows * s.V, s.T * s.C}


def readings(x: Tensor, form: str, s: Shape) -> Iterator[Tensor]:
    """A tensor in the shape that traced_gpt.py gives activations of a form, in every way that it can be meant."""
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
    """A tensor as one head of an activation: (B, T, D) of heads, (B, T, T) of squares."""
    shape = tuple(x.shape)
    if form == "heads":
        if shape == (s.B, s.T, s.D):
            yield x
        if shape == (s.B, s.D, s.T):
            yield x.transpose(1, 2)
    elif form == "square" and shape == (s.B, s.T, s.T):
        yield x


def comparable(x: Tensor, form: str) -> Tensor:
    """What can be compared of a reading: of squares the past, since people mask the future in their own ways."""
    return x.masked_fill(future(x.shape[-1], x.device), 0.0) if form == "square" else x


@dataclass(frozen=True)
class Meeting:
    """An activation of the reference and the nearest thing that the candidate computed."""

    error: float  # relative L2, the largest over heads where each is a tensor of its own
    records: tuple[Record, ...]  # one, or one for each head


def meet(expected: Tensor, form: str, records: Iterable[Record], s: Shape) -> list[Meeting]:
    """Everything that the candidate computed in a shape that this activation can have, nearest first."""
    wanted = comparable(expected, form)
    found = [
        Meeting(relative(comparable(x, form), wanted), (record,))
        for record in records
        for x in readings(record.value, form, s)
    ]
    if form in ("heads", "square") and s.H > 1:
        nearest: list[Meeting] = []
        pieces = [(record, x) for record in records for x in head_readings(record.value, form, s)]
        for h in range(s.H) if len(pieces) >= s.H else ():
            errors = [(relative(comparable(x, form), wanted[:, h]), record) for record, x in pieces]
            error, record = min(errors, key=lambda pair: pair[0])
            nearest.append(Meeting(error, (record,)))
        if nearest:
            found.append(Meeting(max(m.error for m in nearest), tuple(r for m in nearest for r in m.records)))
    return sorted(found, key=lambda meeting: meeting.error)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; infinite where either is not finite. `distance` in fewer operations."""
    a, b = (t.detach().to(device="cpu", dtype=torch.float64) for t in (actual, expected))
    error = float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
    return error if math.isfinite(error) else 0.0 if torch.equal(a, b) else math.inf


@dataclass(frozen=True)
class FirstDifference:
    """Where two models part."""

    name: str  # of the first activation that the candidate has not, as in traced_gpt.py; "output" after the logits
    title: str  # in words
    error: float | None  # of the nearest that was computed there; None if nothing of that shape was
    nearest: str | None  # by which operation, in which module
    factor: float | None  # what it is the right one times, if it is a multiple of it
    hidden: tuple[str, ...]  # activations just before it that this candidate does not show, in words
    agreed: int  # activations that were met before it
    agreed_error: float  # the largest of their errors
    last_agreed: str | None  # the last of them, in words
    reordered: bool  # the same numbers were there in another order


def first_difference(
    activations: Mapping[str, Tensor],
    nodes: Mapping[str, Node],
    records: list[Record],
    output: Tensor,
    allowed: float,
    s: Shape,
) -> FirstDifference | None:
    """Look for each activation of the reference among what the candidate computed.

    Args:
        activations: the reference's, by the names of `nodes`
        records: what the candidate computed, in order
        output: the logits that it returned
        allowed: the largest relative error at which an activation has been met

    Returns None if none was met, or none but the embeddings and nothing else is visible: then nothing can be said of
    where.
    """
    meetings = {name: meet(activations[name].detach(), node.form, records, s) for name, node in nodes.items()}
    met = {name: found[0] for name, found in meetings.items() if found and found[0].error <= allowed}
    if not met:
        return None
    right = implied(met.keys(), nodes)
    agreed = list(met.items())

    def described(name: str) -> str:
        record = met[name].records[-1]
        return f"{nodes[name].title} ({record})"

    last = max(agreed, key=lambda pair: list(nodes).index(pair[0]))[0]
    for name, node in nodes.items():
        if name in right or not all(parent in right for parent in node.parents):
            continue
        # the wrong ones from here on that can be seen; those before them are hidden in the same call
        hidden: list[str] = []
        for later in downstream(name, nodes, right):
            known = [met[p].records[-1].number for p in nodes[later].parents if p in met]
            after = [m for m in meetings[later] if m.records[-1].number > max(known, default=-1)]
            if after:
                nearest, factor = most_alike(after, activations[later], nodes[later].form, s)
                return FirstDifference(
                    later,
                    nodes[later].title,
                    nearest.error,
                    str(nearest.records[0]),
                    factor,
                    tuple(nodes[h].title for h in hidden),
                    len(agreed),
                    max(m.error for _, m in agreed),
                    described(last),
                    any(same_numbers(r.value, activations[later]) for m in after for r in m.records),
                )
            hidden.append(later)
        if met.keys() <= {"tokens", "positions"}:
            return None
        return FirstDifference(
            name, node.title, None, None, None, (), len(agreed), max(m.error for _, m in agreed), described(last), False
        )
    error = relative(output, activations["logits"].detach())
    worst = max(m.error for _, m in agreed)
    return FirstDifference(
        OUTPUT, "what the call returns", error, None, None, (), len(agreed), worst, described(last), False
    )


def most_alike(meetings: list[Meeting], expected: Tensor, form: str, s: Shape) -> tuple[Meeting, float | None]:
    """The one that points where the activation does, however long it is, and its factor if it is a multiple of it.

    By direction: wrong scores are nearer to a multiple of the scores than to weights, which are nearer to nothing.
    """
    wanted = comparable(expected.detach(), form).flatten()

    def fit(meeting: Meeting) -> tuple[float, float]:
        if len(meeting.records) > 1:
            return meeting.error, 1.0
        best = (math.inf, 1.0)
        for x in readings(meeting.records[0].value, form, s):
            x = comparable(x, form).double().flatten()
            factor = float(x @ wanted / (wanted @ wanted))
            rest = float(torch.linalg.vector_norm(x - factor * wanted) / torch.linalg.vector_norm(x))
            best = min(best, (rest if math.isfinite(rest) else math.inf, factor))
        return best

    fits = sorted([(*fit(meeting), meeting) for meeting in meetings], key=lambda one: one[2].records[-1].number)
    multiples = [one for one in fits if one[0] < MULTIPLE]
    if not multiples:
        return min(fits, key=lambda one: one[0])[2], None
    # on the way there may be others: what it goes on with is the last, and where that was made is the first of those
    _, last, _ = multiples[-1]
    _, factor, nearest = next(one for one in multiples if abs(one[1] - last) <= MULTIPLE * abs(last))
    return nearest, factor


def implied(met: Iterable[str], nodes: Mapping[str, Node]) -> set[str]:
    """What was met, and what must have been right for it to be so."""
    right: set[str] = set()
    for name in reversed(list(nodes)):
        if name in met or name in right:
            right |= {name, *nodes[name].parents}
    return right


def downstream(name: str, nodes: Mapping[str, Node], right: set[str]) -> Iterator[str]:
    """A wrong activation and those after it that are computed from it, in order."""
    reached: set[str] = set()
    for later, node in nodes.items():
        if later == name or (reached & set(node.parents) and later not in right):
            reached.add(later)
            yield later


def same_numbers(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors hold the same numbers in whatever order."""
    if actual.numel() != expected.numel() or not actual.isfinite().all():
        return False
    a, b = (t.detach().cpu().double().flatten().sort().values for t in (actual, expected))
    return math.isfinite(float(b.sum())) and distance(a, b)[0] < 1e-9


@dataclass(frozen=True)
class LostGradient:
    """Where, going backwards, the gradient of an activation is first another."""

    name: str
    title: str
    error: float  # 1 where none arrives
    nearest: str  # what was met: by which operation, in which module
    agreed: int  # activations, later in the forward pass, whose gradients agree


def first_lost_gradient(
    activations: Mapping[str, Tensor],
    nodes: Mapping[str, Node],
    records: list[Record],
    allowed: float,
    allowed_gradient: float,
    s: Shape,
) -> LostGradient | None:
    """Go back from the loss through the activations that were met, to the first whose gradient is another.

    Args:
        activations: the reference's, after a backward pass, with their gradients
        records: the candidate's, after its own
        allowed: as in `first_difference`
        allowed_gradient: the largest relative error of a gradient

    Returns None if all gradients agree where they can be seen.
    """
    agreed, detached = 0, None
    for name in reversed(list(nodes)):
        node, expected = nodes[name], activations[name]
        if expected.grad is None:
            continue
        found = [m for m in meet(expected.detach(), node.form, records, s) if m.error <= allowed]
        # what came after the cut knows of no gradient at all: the cut is at something that does, further back
        attached = [m for m in found if all(record.tensor.requires_grad for record in m.records)]
        errors = [(gradient_error(m, expected.grad, node.form, s), m) for m in attached]
        if found and not errors and detached is None:
            detached = LostGradient(name, node.title, 1.0, str(found[0].records[0]), agreed)
        if not errors:
            continue
        error, meeting = min(errors, key=lambda pair: pair[0])
        if error > allowed_gradient:
            return LostGradient(name, node.title, error, str(meeting.records[0]), agreed)
        agreed += 1
    return detached


def gradient_error(meeting: Meeting, expected: Tensor, form: str, s: Shape) -> float:
    """Of the gradients that arrived at what was met; 1 where none did."""
    parts = []
    single = len(meeting.records) == 1
    for h, record in enumerate(meeting.records):
        grad = record.tensor.grad
        if grad is None:
            return 1.0
        wanted = expected if single else expected[:, h]
        ways = list(readings(grad, form, s)) or list(head_readings(grad, form, s))
        parts.append(min(relative(comparable(x, form), comparable(wanted, form)) for x in ways))
    return max(parts)
