"""Diagnose a candidate: where it first differs from the reference, and which known mistake explains the difference.

Two independent methods. `bench.candidate.locate` searches each activation of the reference among the candidate's
tensors. And the reference is run with each mistake of `bench.candidate.known_mistakes`: one that reproduces the
candidate's logits or gradients within the budget explains the difference, whatever the candidate's code.
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
    Runs,
    first_difference,
    first_lost_gradient,
    matches,
    shape_of,
    sizes,
)
from bench.candidate.recorder import only_python, recorded
from bench.candidate.refused import Refused
from bench.candidate.traced_gpt import GPT2, Activations, Watch, nodes, traced_forward
from bench.candidate.validate import found_roundings, logits_at
from bench.numerics.budgets import BUDGETS
from bench.numerics.errors import distance
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
    """Where a candidate first differs from the reference."""

    forward: FirstDifference | None = None
    backward: LostGradient | None = None
    unmatched: bool = False  # no tensor of the candidate matches an activation


@dataclass(frozen=True)
class Cause:
    """A known mistake that reproduces the candidate's output."""

    what: str
    remedy: str
    evidence: str
    whole: bool = True  # it explains the whole difference, not only its beginning


# The forward pass


def of_probe(candidate: Candidate, probe: Probe, precision: str, leniency: float) -> tuple[Where, list[Cause]]:
    """Where and why a probe's logits differ from the reference's; the candidate holds the probe's weights."""
    runs, logits = run_both(candidate, probe, BUDGETS[precision].gradient * leniency)
    first = first_difference(runs, logits)
    allowed = BUDGETS[precision].logits * leniency
    causes = find_causes(candidate.config, probe, logits, runs, first, allowed)
    if precision == "float32":
        halves = [r for r in found_roundings(candidate, probe.ids) if r.dtype != torch.float32]
        remedy = "test it without autocast and half precision"
        causes += [Cause(f"it computes in {halves[0]}", remedy, "seen in its forward pass")] if halves else []
    return Where(forward=first, unmatched=first is None), causes


def run_both(candidate: Candidate, probe: Probe, allowed: float) -> tuple[Runs, Tensor]:
    """Run the reference and a candidate on a probe, recorded; also the candidate's logits.

    Args:
        allowed: the largest error of an activation that is right; it may be rounded more than logits
    """
    config, s = candidate.config, shape_of(candidate.config, probe.ids)
    expected = Activations()
    with torch.no_grad(), only_python():
        traced_forward(config, probe.weights, probe.ids, watch=expected)
        with recorded(candidate.module, sizes(s)) as records:
            logits = logits_at(candidate, probe.ids)
    return Runs(expected.kept, nodes(config), records, s, allowed), logits


def where_rounded(candidate: Candidate, probe: Probe) -> FirstDifference | None:
    """The first activation that float64 would give more exactly; None if the candidate raises, or none is found."""
    try:
        return first_difference(*run_both(candidate, probe, BUDGETS["float64"].gradient))
    except Refused:
        return None


def find_causes(
    config: GPTConfig,
    probe: Probe,
    logits: Tensor,
    runs: Runs,
    first: FirstDifference | None,
    allowed: float,
) -> list[Cause]:
    """Known mistakes that reproduce the candidate's logits; if none does, those that reproduce its first difference."""
    whole: list[tuple[float, Cause]] = []
    begun: list[tuple[int, float, Cause]] = []
    for mistake, blocks in attempts(config, first):
        if whole and blocks is not None:
            break  # a mistake in all blocks explains it
        theirs = Activations()
        try:
            with torch.no_grad():
                traced_forward(config, probe.weights, probe.ids, mistake.change, blocks, theirs)
        except (KeyError, RuntimeError):  # the mistake needs a bias, or another shape
            continue
        where = "" if blocks is None else f" in {place(blocks, config)} only"
        error, _ = distance(logits, theirs.kept["logits"])
        if error <= allowed:
            evidence = f"the reference with this change{where} gives the candidate's logits, to {error:.1e}"
            whole.append((error, Cause(mistake.cause + where, mistake.remedy, evidence)))
        elif first is not None and first.name in theirs.kept and not whole:
            moved, _ = distance(theirs.kept[first.name].clone(), runs.activations[first.name])
            if not moved > runs.allowed:
                continue
            begins = matches(theirs.kept[first.name], runs.nodes[first.name].form, runs.records, runs.shape)
            begins = [match for match in begins if match.error <= runs.allowed]
            if begins:
                evidence = (
                    f"the reference with this change gives the candidate's tensor there, to {begins[0].error:.1e}, but "
                    "not its logits: there is another difference later, or it is in some blocks only"
                )
                cause = Cause(mistake.cause, mistake.remedy, evidence, whole=False)
                begun.append((max(match.records[-1].number for match in begins), begins[0].error, cause))
    # a right candidate also computes unscaled scores on the way: only the latest tensor counts
    latest = max((number for number, _, _ in begun), default=0)
    return different(whole or [(error, cause) for number, error, cause in begun if number == latest])


def attempts(config: GPTConfig, first: FirstDifference | None) -> Iterator[tuple[KnownMistake, set[int] | None]]:
    """Every known mistake in all blocks, then in the block of the first difference only."""
    for mistake in forward_mistakes():
        yield mistake, None
    block = None if first is None else block_of(first.name, config)
    for mistake in forward_mistakes():
        if block is not None and not mistake.everywhere:
            yield mistake, {block}


def block_of(name: str, config: GPTConfig) -> int | None:
    """The block of an activation: n_layer for the final norm, None if it is in no block."""
    if name.startswith("h."):
        return int(name.split(".")[1])
    return config.n_layer if name == "ln_f" else None


def place(blocks: set[int], config: GPTConfig) -> str:
    """One block, in words."""
    (block,) = blocks
    return f"block {block}" if block < config.n_layer else "the last norm"


def different(found: list[tuple[float, Cause]]) -> list[Cause]:
    """Distinct causes, smallest error first, without those much worse than the best."""
    found = sorted(found, key=lambda pair: pair[0])
    kept: dict[str, Cause] = {}
    for error, cause in found:
        # a mistake in all blocks and in one block may begin with the same tensor
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


def of_loss(candidate: Candidate, weights: Weights, batch: tuple[Tensor, Tensor], precision: str) -> list[Cause]:
    """Known mistakes of a loss that reproduce the candidate's, if its logits are right."""
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
    """Where the backward pass first gives a wrong gradient, if logits and loss are right; and why.

    Args:
        candidate: with `weights` loaded
        found: its gradients, by canonical name
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
    lost = first_lost_gradient(Runs(expected.kept, nodes(config), records, s, allowed), allowed)
    causes = of_detachment(config, weights, batch, found, lost, allowed)
    factor = common_factor(found, right, allowed)
    if factor is not None:
        remedy = "look for a scaled loss or a hook"
        causes.insert(
            0, Cause(f"every gradient is {factor:.6g} times the right one", remedy, "all gradients compared together")
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
    """Every gradient of the reference in float64; zero if there is none."""
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
    """Activations that are detached in the candidate."""
    block = None if lost is None else block_of(lost.name, config)
    causes: list[tuple[float, Cause]] = []

    def attempt(gradients: Weights, what: str) -> None:
        error = apart(found, gradients)
        if error <= allowed:
            evidence = f"the reference with this change gives the candidate's gradients, to {error:.1e}"
            causes.append((error, Cause(what, REMEDY, evidence)))

    attempt(
        reference_gradients(config, weights, batch, detach_head=True),
        "the token table gets no gradient from the logits: the head is detached or not tied",
    )
    places: list[set[int] | None] = [None] if block is None or block >= config.n_layer else [None, {block}]
    for blocks in places:
        if causes:
            break  # it is in all blocks
        where = "" if blocks is None else f" in {place(blocks, config)} only"
        for names in chain(((name,) for name in DETACHED), DETACHED_TOGETHER):
            try:
                wrong = reference_gradients(config, weights, batch, detaching(names, blocks))
            except RuntimeError:  # no gradient at all
                continue
            attempt(wrong, f"no gradient flows back through {' and '.join(DETACHED[name] for name in names)}{where}")
    return different(causes)


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
