"""Diagnose a candidate: where it first differs from the reference, and which known mistake explains the difference.

`bench.candidate.locate` searches each activation of the reference among the candidate's tensors. The reference is then
run with the mistakes of `bench.candidate.known_mistakes`: those that give the candidate's logits in every probe, its
loss and its gradients explain the difference, whatever the candidate's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from bench.candidate.adapter import Candidate
from bench.candidate.known_mistakes import (
    common_factor,
    forward_mistakes,
    gradient_mistakes,
    loss_mistakes,
)
from bench.candidate.locate import (
    FirstDifference,
    LostGradient,
    Runs,
    first_lost_gradient,
    shape_of,
    sizes,
)
from bench.candidate.recorder import Record, only_python, recorded
from bench.candidate.search_causes import Explanation, Observed, Probe, Search, block_of, merged, place
from bench.candidate.traced_gpt import Activations, Changes, SameStep, Watch, nodes, traced_forward
from bench.candidate.validate import found_roundings, logits_at
from bench.numerics.budgets import BUDGETS
from bench.numerics.errors import distance, measure_all
from bench.user_code.refused import Refused
from reference.config import GPTConfig
from reference.functional import cross_entropy

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Where:
    """Where a candidate first differs from the reference."""

    forward: FirstDifference | None = None
    backward: LostGradient | None = None
    unmatched: bool = False  # no tensor of the candidate matches an activation
    rest: FirstDifference | None = None  # what no known mistake explains, after those that are named


@dataclass(frozen=True)
class Cause:
    """A known mistake that reproduces the candidate's output."""

    what: str
    remedy: str
    evidence: str
    whole: bool = True  # it explains the whole difference, not only its beginning
    link: str = "or"  # to the cause before it: "and" if only both explain the difference


# The forward pass


def observe(candidate: Candidate, probe: Probe, precision: str, leniency: float, wrong: bool = True) -> Observed:
    """Run a candidate on a probe, whose weights it holds.

    Args:
        leniency: the factor on the budget of the probe
        wrong: whether its logits are wrong; only then its tensors are recorded
    """
    records: list[Record] = []
    with torch.no_grad(), only_python():
        if wrong:
            with recorded(candidate.module, sizes(shape_of(candidate.config, probe.ids))) as records:
                logits = logits_at(candidate, probe.ids)
        else:
            logits = logits_at(candidate, probe.ids)
    budget = BUDGETS[precision]
    return Observed(probe, logits, records, budget.logits * leniency, budget.gradient * leniency)


def of_logits(candidate: Candidate, observed: list[Observed], precision: str) -> tuple[Where, list[Cause], Explanation]:
    """Where and why logits differ from the reference's.

    Args:
        observed: its runs on the probes, those with wrong logits first
    """
    found = Search(candidate.config, observed).explanation()
    causes = causes_of(found, len(observed), candidate.config)
    if precision == "float32":
        halves = [r for r in found_roundings(candidate, observed[0].probe.ids) if r.dtype != torch.float32]
        remedy = "test it without autocast and half precision"
        causes += [Cause(f"it computes in {halves[0]}", remedy, "seen in its forward pass")] if halves else []
    return Where(forward=found.first, unmatched=found.first is None, rest=found.rest), causes, found


def causes_of(found: Explanation, probes: int, config: GPTConfig) -> list[Cause]:
    """The mistakes of an explanation, in words."""
    in_probes = f"all {probes} probes" if probes > 1 else "the probe"
    causes: list[Cause] = []
    for number, state in enumerate(found.states[:4]):
        together = merged(state)
        change = "this change" if len(together) == 1 else f"these {len(together)} changes"
        evidence = f"the reference with {change} gives the candidate's logits in {in_probes}, to {found.error:.1e}"
        for place_in, (mistake, blocks) in enumerate(together):
            what = mistake.cause + place(blocks, config)
            if number and what in [cause.what for cause in causes]:
                continue
            link = "and" if place_in and not number else "or"
            causes.append(Cause(what, mistake.remedy, evidence, link=link))
    for mistake, blocks in merged(found.begun):
        evidence = (
            "the reference with this change gives the candidate's tensors there, but not its logits: there is another "
            "difference later"
        )
        link = "and" if causes else "or"
        causes.append(Cause(mistake.cause + place(blocks, config), mistake.remedy, evidence, whole=False, link=link))
    return causes


def where_rounded(candidate: Candidate, probe: Probe) -> FirstDifference | None:
    """The first activation that float64 would give more exactly; None if the candidate raises, or none is found."""
    try:
        seen = observe(candidate, probe, "float64", 1.0)
        return Search(candidate.config, [seen]).difference(seen, ())
    except Refused:
        return None


def different(found: list[tuple[float, Cause]]) -> list[Cause]:
    """Distinct causes, smallest error first, without those much worse than the best."""
    found = sorted(found, key=lambda pair: pair[0])
    kept: dict[str, Cause] = {}
    for error, cause in found:
        if error <= max(100.0 * found[0][0], 1e-14):
            kept.setdefault(cause.what, cause)
    return list(kept.values())[:4]


def too_small(config: GPTConfig, weights: Weights, ids: Tensor, allowed: float) -> list[str]:
    """Known mistakes that change these logits by less than the allowed error."""
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


Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, T, V) and targets (B, T)


def of_loss(
    candidate: Candidate, weights: Weights, batch: tuple[Tensor, Tensor], precision: str, changes: Changes = ()
) -> tuple[list[Cause], Loss | None]:
    """Known mistakes of a loss that reproduce the candidate's; also the function that does, None if none does.

    Args:
        changes: with which the reference gives the candidate's logits
    """
    ids, targets = batch
    device = next(candidate.parameters()).device
    allowed = BUDGETS[precision].loss
    with torch.no_grad():
        logits = traced_forward(candidate.config, weights, ids, changes)
        loss = candidate.loss(ids.to(device), targets.to(device))
        if distance(loss, cross_entropy(logits, targets))[0] <= allowed:
            return [], cross_entropy
        found, functions = [], []
        for what, remedy, function in loss_mistakes(candidate.config):
            error, _ = distance(loss, function(logits, targets))
            if error <= allowed:
                evidence = f"the reference's logits with this loss give the candidate's loss, to {error:.1e}"
                found.append((error, Cause(what, remedy, evidence)))
                functions.append((error, function))
    best = min(functions, key=lambda pair: pair[0])[1] if functions else None
    return different(found), best


# The backward pass


def of_gradients(
    candidate: Candidate,
    weights: Weights,
    batch: tuple[Tensor, Tensor],
    found: Mapping[str, Tensor],
    precision: str,
    changes: Changes = (),
    loss_of: Loss = cross_entropy,
) -> tuple[Where, list[Cause]]:
    """Where the backward pass first gives a wrong gradient; and why.

    Args:
        candidate: with `weights` loaded
        found: its gradients, by canonical name
        changes, loss_of: with which the reference gives the candidate's logits and loss
    """
    config, s = candidate.config, shape_of(candidate.config, batch[0])
    budget = BUDGETS[precision]
    allowed = budget.gradient

    def backward(other: Changes = (), watch: Watch = lambda name, x: x) -> Weights:
        return reference_gradients(config, weights, batch, (*changes, *other), loss_of, watch)

    expected = Activations(gradients=True)
    right = backward(watch=expected)
    if not any(m.over(budget) > 1.0 for m in measure_all("gradient", dict(found), right)):
        return Where(), []
    device = next(candidate.parameters()).device
    with only_python(), recorded(candidate.module, sizes(s), gradients=True) as records:
        loss = candidate.loss(*(t.to(device) for t in batch))
    loss.backward()  # type: ignore[no-untyped-call]
    candidate.zero_grad(set_to_none=True)
    lost = first_lost_gradient(Runs(expected.kept, nodes(config), records, s, allowed), allowed)
    factor = common_factor(found, right, allowed)
    if factor is not None:
        remedy, evidence = "look for a scaled loss or a hook", "all gradients compared together"
        return Where(backward=lost), [Cause(f"every gradient is {factor:.6g} times the right one", remedy, evidence)]
    causes = of_backward(backward, config, found, lost, allowed)
    causes += of_factors(found, right, allowed) if not causes else []
    return Where(backward=lost), causes


def reference_gradients(
    config: GPTConfig,
    weights: Weights,
    batch: tuple[Tensor, Tensor],
    changes: Changes = (),
    loss_of: Loss = cross_entropy,
    watch: Watch = lambda name, x: x,
) -> Weights:
    """Every gradient of the reference in float64; zero if there is none."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
    loss_of(traced_forward(config, leaves, batch[0], changes, watch=watch), batch[1]).backward()  # type: ignore[no-untyped-call]
    return {n: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for n, leaf in leaves.items()}


def of_backward(
    backward: Callable[[Changes, Watch], Weights],
    config: GPTConfig,
    found: Mapping[str, Tensor],
    lost: LostGradient | None,
    allowed: float,
) -> list[Cause]:
    """Known mistakes of the backward pass, one or two, that reproduce the candidate's gradients.

    Args:
        backward: the reference's gradients with further changes and a `Watch`
    """
    block = None if lost is None else block_of(lost.name, config)
    places: list[frozenset[int] | None] = [None]
    places += [] if block is None or block >= config.n_layer else [frozenset({block})]
    for count in (1, 2):
        for blocks in places:
            causes: list[tuple[float, list[Cause]]] = []
            where = place(blocks, config)
            for together in combinations(gradient_mistakes(blocks), count):
                if count > 1 and any(" and " in one.cause for one in together):
                    continue  # it is two already
                try:
                    watch = one_after_the_other([one.watch for one in together])
                    wrong = backward([(one.change, blocks) for one in together], watch)
                except (RuntimeError, SameStep):  # no gradient at all
                    continue
                error = apart(found, wrong)
                if error <= allowed:
                    change = "this change" if count == 1 else "these 2 changes"
                    evidence = f"the reference with {change} gives the candidate's gradients, to {error:.1e}"
                    named = [
                        Cause(one.cause + where, one.remedy, evidence, link="and" if number else "or")
                        for number, one in enumerate(together)
                    ]
                    causes.append((error, named))
            if causes and count == 1:
                return different([(error, one) for error, (one,) in causes])
            if causes:
                return min(causes, key=lambda pair: pair[0])[1]  # it is in all blocks
    return []


def one_after_the_other(watches: list[Watch]) -> Watch:
    """Several watches as one."""

    def watch(name: str, x: Tensor) -> Tensor:
        for one in watches:
            x = one(name, x)
        return x

    return watch


def apart(actual: Mapping[str, Tensor], expected: Weights) -> float:
    """The relative L2 distance of all tensors together."""
    square = sum(float(t.square().sum()) for t in expected.values())
    difference = sum(float((actual[name].double() - t).square().sum()) for name, t in expected.items())
    return float((difference / max(square, 1e-300)) ** 0.5)


def of_factors(found: Mapping[str, Tensor], right: Weights, allowed: float) -> list[Cause]:
    """Single tensors whose gradient is missing or a multiple of the right one."""
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
        what = f"the gradient of {listed(names)} is {factor:g} times the right one"
        causes.append(Cause(what, "look for a hook or a second use of the tensor", "gradients compared one by one"))
    return causes[:4]


def listed(names: list[str]) -> str:
    """The first names of a list, and the number of others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# Parameters


def of_structure(candidate: Candidate) -> list[Cause]:
    """Parameters that exist twice."""
    causes = []
    twice = [name for name, share in candidate.share.items() if bool((share > 1.5).any())]
    if twice:
        remedy = "tie them: lm_head.weight = wte.weight"
        what = f"{listed(twice)} exists as two parameters, which differ after training"
        causes.append(Cause(what, remedy, "seen in its parameters"))
    return causes
