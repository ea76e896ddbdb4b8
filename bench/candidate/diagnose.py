"""Where a candidate parts from the readable GPT, and which known mistake would explain it.

Two ways that need nothing of each other. `bench.candidate.locate` looks for each activation of the reference among all
that the candidate computes. And each known mistake of `bench.candidate.known_mistakes` is made on purpose in the
reference: one that gives the candidate's logits, or its gradients, within the budget explains it, whatever the
candidate looks like inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from bench.candidate.adapter import Candidate
from bench.candidate.faulty_steps import detached_head, detaching
from bench.candidate.known_mistakes import (
    DETACHED,
    DETACHED_TOGETHER,
    REMEDY,
    KnownMistake,
    common_factor,
    forward_mistakes,
    loss_mistakes,
)
from bench.candidate.locate import (
    FirstDifference,
    LostGradient,
    Shape,
    first_difference,
    first_lost_gradient,
    meet,
    shape_of,
    sizes,
)
from bench.candidate.recorder import Record, only_python, recorded
from bench.candidate.traced_gpt import GPT2, Activations, Watch, nodes, traced_forward
from bench.candidate.validate import found_roundings, logits_at
from bench.numerics.errors import distance
from bench.numerics.tolerances import BUDGETS
from reference.config import GPTConfig
from reference.functional import cross_entropy

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """Weights and ids on which logits are compared."""

    name: str
    weights: Weights  # canonical
    ids: Tensor  # (B, T)


@dataclass(frozen=True)
class Where:
    """Where a candidate and the reference part."""

    forward: FirstDifference | None = None
    backward: LostGradient | None = None
    unmatched: bool = False  # nothing that the candidate computes could be matched


@dataclass(frozen=True)
class Cause:
    """A known mistake that gives what the candidate gives."""

    what: str
    remedy: str
    evidence: str
    whole: bool = True  # it explains all of the difference, not only where it begins


# The forward pass


def of_probe(candidate: Candidate, probe: Probe, precision: str, leniency: float) -> tuple[Where, list[Cause]]:
    """Where the logits of a probe, which the candidate holds the weights of, part from the reference; and why."""
    config, s = candidate.config, shape_of(candidate.config, probe.ids)
    allowed = BUDGETS[precision].logits * leniency
    inside = BUDGETS[precision].gradient * leniency  # an activation may be rounded more than the logits
    expected = Activations()
    with torch.no_grad(), only_python():
        traced_forward(config, probe.weights, probe.ids, watch=expected)
        with recorded(candidate.module, sizes(s)) as records:
            logits = logits_at(candidate, probe.ids)
    first = first_difference(expected.kept, nodes(config), records, logits, inside, s)
    causes = find_causes(config, probe, logits, records, expected, first, allowed, inside, s)
    if precision == "float32":
        halves = [r for r in found_roundings(candidate, probe.ids) if r.dtype != torch.float32]
        remedy = "compare without autocast and half precision"
        causes += [Cause(f"it computes in {halves[0]}", remedy, "seen while it ran")] if halves else []
    return Where(forward=first, unmatched=first is None), causes


def find_causes(
    config: GPTConfig,
    probe: Probe,
    logits: Tensor,
    records: list[Record],
    expected: Activations,
    first: FirstDifference | None,
    allowed: float,
    inside: float,
    s: Shape,
) -> list[Cause]:
    """Known mistakes that give the candidate's logits; if none does, those that give what it has where it parts."""
    whole: list[tuple[float, Cause]] = []
    begun: list[tuple[int, float, Cause]] = []
    for mistake, blocks in attempts(config, first):
        if whole and blocks is not None:
            break  # it explains all of it: no need to look for less
        theirs = Activations()
        try:
            with torch.no_grad():
                traced_forward(config, probe.weights, probe.ids, mistake.change, blocks, theirs)
        except (KeyError, RuntimeError):  # a mistake that needs a bias, or another shape
            continue
        where = "" if blocks is None else f" in {place(blocks, config)} only"
        error, _ = distance(logits, theirs.kept["logits"])
        if error <= allowed:
            evidence = f"the reference with this one change{where} gives the candidate's logits, to {error:.1e}"
            whole.append((error, Cause(mistake.cause + where, mistake.remedy, evidence)))
        elif first is not None and first.name in theirs.kept and not whole:
            moved, _ = distance(theirs.kept[first.name].clone(), expected.kept[first.name])
            if not moved > inside:
                continue
            begins = meet(theirs.kept[first.name], nodes(config)[first.name].form, records, s)
            begins = [meeting for meeting in begins if meeting.error <= inside]
            if begins:
                evidence = (
                    f"the reference with it gives what the candidate has there, to {begins[0].error:.1e}; it is not "
                    "all: something differs after it, or it is only in some blocks"
                )
                cause = Cause(mistake.cause, mistake.remedy, evidence, whole=False)
                begun.append((max(meeting.records[-1].number for meeting in begins), begins[0].error, cause))
    # on the way to its scores a candidate has those that are not scaled: what counts is what it arrives at
    latest = max((number for number, _, _ in begun), default=0)
    return different(whole or [(error, cause) for number, error, cause in begun if number == latest])


def attempts(config: GPTConfig, first: FirstDifference | None) -> Iterator[tuple[KnownMistake, set[int] | None]]:
    """Every known mistake in all blocks; then in the one block in which the difference begins."""
    for mistake in forward_mistakes():
        yield mistake, None
    block = None if first is None else block_of(first.name, config)
    for mistake in forward_mistakes():
        if block is not None and not mistake.everywhere:
            yield mistake, {block}


def block_of(name: str, config: GPTConfig) -> int | None:
    """The block of an activation; that after the last for the final norm, None for what is in no block."""
    if name.startswith("h."):
        return int(name.split(".")[1])
    return config.n_layer if name == "ln_f" else None


def place(blocks: set[int], config: GPTConfig) -> str:
    """Blocks in words."""
    (block,) = blocks
    return f"block {block}" if block < config.n_layer else "the last norm"


def different(found: list[tuple[float, Cause]]) -> list[Cause]:
    """Causes by how well they explain, each once; only those that explain about as well as the best."""
    found = sorted(found, key=lambda pair: pair[0])
    kept: dict[str, Cause] = {}
    for error, cause in found:
        # "in block 1 only" says nothing more where it is what "everywhere" does too
        if error <= max(100.0 * found[0][0], 1e-14) and not any(cause.what.startswith(known) for known in kept):
            kept[cause.what] = cause
    return list(kept.values())[:4]


def too_small(config: GPTConfig, weights: Weights, ids: Tensor, allowed: float) -> list[str]:
    """Known mistakes that move these logits by no more than is allowed, though they do move them."""
    hidden = []
    with torch.no_grad():
        right = traced_forward(config, weights, ids)
        for mistake in forward_mistakes():
            try:
                error, _ = distance(traced_forward(config, weights, ids, mistake.change), right)
            except (KeyError, RuntimeError):
                continue
            if 1e-14 < error <= allowed:
                hidden.append(f"{mistake.cause} ({error:.0e})")
    return hidden


# The loss


def of_loss(candidate: Candidate, weights: Weights, batch: tuple[Tensor, Tensor], precision: str) -> list[Cause]:
    """Known mistakes of a loss that give the candidate's, where the logits are right."""
    ids, targets = batch
    device = next(candidate.parameters()).device
    with torch.no_grad():
        logits = traced_forward(candidate.config, weights, ids)
        loss = candidate.loss(ids.to(device), targets.to(device))
        found = []
        for what, remedy, function in loss_mistakes(candidate.config):
            error, _ = distance(loss, function(logits, targets))
            if error <= BUDGETS[precision].loss:
                evidence = f"the reference's logits with this loss give the candidate's loss, to {error:.1e}"
                found.append((error, Cause(what, remedy, evidence)))
    return different(found)


# The backward pass


def of_gradients(
    candidate: Candidate,
    weights: Weights,
    batch: tuple[Tensor, Tensor],
    found: Mapping[str, Tensor],
    precision: str,
) -> tuple[Where, list[Cause]]:
    """Where the gradients part, going backwards, though logits and loss are right; and why.

    Args:
        candidate: holds `weights`
        found: its gradients by canonical name
    """
    config, s = candidate.config, shape_of(candidate.config, batch[0])
    allowed = BUDGETS[precision].gradient
    expected = Activations(gradients=True)
    right = reference_gradients(config, weights, batch, watch=expected)
    device = next(candidate.parameters()).device
    with only_python(), recorded(candidate.module, sizes(s), gradients=True) as records:
        loss = candidate.loss(*(t.to(device) for t in batch))
    loss.backward()  # type: ignore[no-untyped-call]
    candidate.zero_grad(set_to_none=True)
    lost = first_lost_gradient(expected.kept, nodes(config), records, allowed, allowed, s)
    causes = of_detachment(config, weights, batch, found, lost, allowed)
    factor = common_factor(found, right, allowed)
    if factor is not None:
        remedy = "the loss that is differentiated, or a hook, scales them"
        causes.insert(
            0, Cause(f"every gradient is {factor:.6g} times what it should be", remedy, "compared as a whole")
        )
    causes += of_factors(found, right, allowed) if not causes else []
    return Where(backward=lost), causes


def reference_gradients(
    config: GPTConfig,
    weights: Weights,
    batch: tuple[Tensor, Tensor],
    watch: Watch = lambda name, x: x,
    detach_head: bool = False,
) -> Weights:
    """Every gradient of the readable GPT in float64, zero where there is none."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
    change = detached_head() if detach_head else GPT2
    cross_entropy(traced_forward(config, leaves, batch[0], change, watch=watch), batch[1]).backward()  # type: ignore[no-untyped-call]
    return {n: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for n, leaf in leaves.items()}


def of_detachment(
    config: GPTConfig,
    weights: Weights,
    batch: tuple[Tensor, Tensor],
    found: Mapping[str, Tensor],
    lost: LostGradient | None,
    allowed: float,
) -> list[Cause]:
    """Activations through which nothing flows back in the candidate."""
    block = None if lost is None else block_of(lost.name, config)
    causes: list[tuple[float, Cause]] = []

    def attempt(gradients: Weights, what: str) -> None:
        error = apart(found, gradients)
        if error <= allowed:
            evidence = f"the reference with this one change gives the candidate's gradients, to {error:.1e}"
            causes.append((error, Cause(what, REMEDY, evidence)))

    attempt(
        reference_gradients(config, weights, batch, detach_head=True),
        "the token table learns nothing as the head: the scoring copy is detached, or not tied",
    )
    places: list[set[int] | None] = [None] if block is None or block >= config.n_layer else [None, {block}]
    for blocks in places:
        if causes:
            break  # it is everywhere
        where = "" if blocks is None else f" in {place(blocks, config)} only"
        for names in chain(((name,) for name in DETACHED), DETACHED_TOGETHER):
            try:
                wrong = reference_gradients(config, weights, batch, detaching(names, blocks))
            except RuntimeError:  # nothing at all flows back
                continue
            attempt(wrong, f"no gradient flows back through {' and '.join(DETACHED[name] for name in names)}{where}")
    return different(causes)


def apart(actual: Mapping[str, Tensor], expected: Weights) -> float:
    """The relative distance of all tensors at once."""
    square = sum(float(t.square().sum()) for t in expected.values())
    difference = sum(float((actual[name].double() - t).square().sum()) for name, t in expected.items())
    return float((difference / max(square, 1e-300)) ** 0.5)


def of_factors(found: Mapping[str, Tensor], right: Weights, allowed: float) -> list[Cause]:
    """Single tensors whose gradient is missing, or is a multiple of what it should be."""
    missing, scaled = [], []
    for name, expected in right.items():
        if name.endswith("k_proj.bias"):  # zero in theory
            continue
        if not found[name].any():
            missing.append(name)
            continue
        factor = common_factor({name: found[name]}, {name: expected}, allowed)
        if factor is not None:
            scaled.append((name, factor))
    causes = []
    if missing:
        what = f"no gradient arrives at {listed(missing)}"
        causes.append(Cause(what, "look for requires_grad=False, detach() or .data", "it is exactly zero"))
    for factor in sorted({round(factor, 6) for _, factor in scaled}):
        names = [name for name, own in scaled if round(own, 6) == factor]
        what = f"the gradient of {listed(names)} is {factor:g} times what it should be"
        causes.append(Cause(what, "look for a hook, or a second use of the tensor", "compared tensor by tensor"))
    return causes[:4]


def listed(names: list[str]) -> str:
    """Names, the first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# What can be seen without running it


def of_structure(candidate: Candidate) -> list[Cause]:
    """Parameters that are there twice, or are not trained."""
    causes = []
    twice = [name for name, share in candidate.share.items() if bool((share > 1.5).any())]
    if twice:
        remedy = "tie them: lm_head.weight = wte.weight"
        what = f"{listed(twice)} is kept as two parameters, which training drives apart"
        causes.append(Cause(what, remedy, "seen in its parameters"))
    return causes
