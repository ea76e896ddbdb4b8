"""Validate a candidate: can it be tested, and in which precision?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.candidate.adapter import Build, Candidate, some
from bench.candidate.dropouts import changes_between_calls
from bench.candidate.layouts import Layout
from bench.candidate.lifted import lifted_build, lifting
from bench.candidate.recorder import Rounding, only_python, roundings
from bench.numerics.budgets import BUDGETS
from bench.numerics.errors import distance
from bench.numerics.outputs import Batch
from bench.user_code.refused import Refused, called
from reference.config import GPTConfig

Weights = Mapping[str, Tensor]
IGNORED = {
    -1: "",
    -100: "; it ignores targets of -100, not of -1, so ignored targets are -100",
    None: "; it ignores no targets, so it is tested without ignored targets",
}


@dataclass(frozen=True)
class Validated:
    """A candidate that can be tested."""

    candidate: Candidate
    precision: str  # to test it in
    notes: list[str]
    inside: Candidate | None = None  # with float64 parameters, if it computes with fewer bits from them
    lifted: Candidate | None = None  # in float64 throughout, if it computes with fewer bits from float64 parameters
    why: str = ""  # how it shows that it does


def validate(
    build: Build,
    layout: Layout,
    config: GPTConfig,
    weights: Weights,
    batch: Batch,
    device: torch.device,
    precision: str | None,
) -> Validated:
    """Build the candidate with its weights, and find the precision to test it in.

    Args:
        build, layout: the user's functions
        weights: canonical
        batch: ids and targets to try it on
        precision: float64 or float32; None for float64, or float32 if the candidate does not compute in float64

    Raises ValueError, one line, for a candidate that cannot be tested.
    """
    if precision is not None:
        candidate = learned(built(build, layout, config, weights, device, precision), batch)
        return Validated(candidate, precision, look_at(candidate, batch, precision))
    whole = learned(built(build, layout, config, weights, device, "float64"), batch)
    why = no_float64(whole, batch[0])
    if why is None:
        return Validated(whole, "float64", look_at(whole, batch, "float64"))
    candidate = learned(built(build, layout, config, weights, device, "float32"), batch)
    notes = look_at(candidate, batch, "float32")
    lifted = lifted_candidate(build, layout, config, weights, batch, device)
    if lifted is None:
        return Validated(candidate, "float32", [f"tested in float32, because {why}", *notes])
    return Validated(candidate, "float32", notes, whole, lifted, why)


def lifted_candidate(
    build: Build, layout: Layout, config: GPTConfig, weights: Weights, batch: Batch, device: torch.device
) -> Candidate | None:
    """A candidate in float64 throughout; None if it still computes with fewer bits, or raises."""
    try:
        candidate = built(lifted_build(build), layout, config, weights, device, "float64", lifting)
        return None if no_float64(learned(candidate, batch), batch[0]) else candidate
    except ValueError:
        return None


def no_float64(candidate: Candidate, ids: Tensor) -> str | None:
    """Why a candidate with float64 weights does not compute in float64; None if it does."""
    try:
        with only_python(), roundings(candidate.module) as rounded:
            logits = logits_at(candidate, ids)
            if logits.dtype != torch.float64:
                return f"it returns {shown(logits.dtype)} logits from float64 weights"
            if not has_shape(logits, ids, candidate.config.vocab_size):
                return None  # `look_at` refuses it with this reason
            if candidate.has_own_loss:  # some round only there
                loss_at(candidate, ids)
    except Refused as error:
        return f"it does not run in float64 ({str(error).removeprefix('candidate: ')})"
    return f"it computes in {rounded[0]}" if rounded else None


def built(
    build: Build,
    layout: Layout,
    config: GPTConfig,
    weights: Weights,
    device: torch.device,
    precision: str | None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Candidate:
    """Build a candidate in eval mode with the weights, in a precision (None: as built). Its calls run in `around`."""
    with torch.random.fork_rng(devices=[]):  # its initial weights are overwritten
        module = called(lambda: build(config), "build(config)")
    if not isinstance(module, nn.Module):
        raise Refused(f"candidate: build(config) returned {described(module)}: give a torch.nn.Module")
    if next(module.parameters(), None) is None:
        raise Refused("candidate: its module has no parameters, so it cannot take GPT-2's weights")
    built_in = {p.dtype for p in module.parameters() if p.is_floating_point()}
    module = moved(module, device, None if precision is None else getattr(torch, precision))
    candidate = Candidate(module, config, layout, weights, around)
    candidate.built_in = sorted(map(shown, built_in))
    candidate.eval()
    return candidate


def moved(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """The module on a device, in a precision or as it is; by torch's `to` if its own takes other arguments."""
    unfilled = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if unfilled:
        raise Refused(
            f"candidate: its buffers {some(unfilled)} are on the meta device, without values: fill them in "
            "build(config)"
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        fill(module, device)

    def is_done() -> bool:
        numbers = (p for p in module.parameters() if p.is_floating_point())
        return all(dtype in (None, p.dtype) and p.device.type == device.type for p in numbers)

    ways: list[Callable[[], Any]] = [
        lambda: module.to(device=device, dtype=dtype),
        lambda: (module.to(dtype), module.to(device)),
        lambda: nn.Module.to(module, device=device, dtype=dtype),
    ]
    for way in ways[:-1]:
        with suppress(Exception):
            way()
            if is_done():
                return module
    called(ways[-1], "its to(device, dtype)")
    return module


def fill(module: nn.Module, device: torch.device) -> None:
    """Give parameters on the meta device memory, and keep tied ones tied; their values are loaded later."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    called(lambda: nn.Module.to_empty(module, device=device), "to_empty()")
    for first, *others in names.values():
        for name in others:
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, module.get_parameter(first))


def learned(candidate: Candidate, batch: Batch) -> Candidate:
    """A candidate that knows how it is called."""
    device = next(candidate.parameters()).device
    ids, targets = (t.to(device) for t in batch)
    candidate.learn_call(ids)
    candidate.learn_loss(ids, targets)
    return candidate


def logits_at(candidate: Candidate, ids: Tensor) -> Tensor:
    """The logits of ids, without a gradient."""
    device = next(candidate.parameters()).device
    with torch.no_grad():
        return called(lambda: candidate(ids.to(device)), f"a call with ids of shape {tuple(ids.shape)}")


def loss_at(candidate: Candidate, ids: Tensor) -> Tensor:
    """The loss of ids as their own targets."""
    device = next(candidate.parameters()).device
    loss: Tensor = called(lambda: candidate.loss(ids.to(device), ids.to(device)), "its loss")
    return loss


def found_roundings(candidate: Candidate, ids: Tensor) -> list[Rounding]:
    """Operations of the forward pass and the loss whose output has fewer bits than their input."""
    with only_python(), roundings(candidate.module) as found:
        logits_at(candidate, ids)
        if candidate.has_own_loss:
            loss_at(candidate, ids)  # some round only with targets
    return found


def look_at(candidate: Candidate, batch: Batch, precision: str | None) -> list[str]:
    """Call the candidate; returns notes on how it is called. Raises Refused if it cannot be tested."""
    ids, targets = batch
    logits = logits_at(candidate, ids)
    check_shape(logits, ids, candidate.config.vocab_size)
    if precision in BUDGETS and logits.dtype != getattr(torch, str(precision)):
        raise Refused(
            f"candidate: returns {shown(logits.dtype)} logits from {precision} weights: return them in the precision "
            "of the weights, and compare without autocast"
        )
    others = (ids + 1) % candidate.config.vocab_size
    logits_at(candidate, others)  # what it keeps of these must not show
    change, _ = distance(logits_at(candidate, ids).clone(), logits)
    if change > (0.01 * BUDGETS[precision].logits if precision in BUDGETS else 0.0) and logits.isfinite().all():
        why = changes_between_calls(
            candidate.module, lambda: logits_at(candidate, ids), lambda: logits_at(candidate, others)
        )
        raise Refused(
            f"candidate: changes its output between two calls with the same ids, by {change:.1e}, in eval mode: {why}"
        )
    check_gradients(candidate, ids, targets)
    return remarks(candidate)


def has_shape(logits: Tensor, ids: Tensor, V: int) -> bool:
    """Whether the logits are (B, T, V)."""
    return tuple(logits.shape) == (*ids.shape, V)


def check_shape(logits: Tensor, ids: Tensor, V: int) -> None:
    """Raise Refused unless the logits are (B, T, V)."""
    B, T = ids.shape
    if has_shape(logits, ids, V):
        return
    hint = ""
    if logits.dim() == 3 and logits.shape[:2] == (B, T) and logits.shape[2] > V:
        hint = f": cut the padding of the vocabulary, logits[..., :{V}]"
    elif logits.dim() == 3 and logits.shape[1] == 1:
        hint = ": these are of the last position only; return all, or take an argument named targets"
    elif logits.dim() == 0:
        hint = ": it returns only a loss; return all logits too, with targets or without"
    raise Refused(
        f"candidate: returns logits of shape {tuple(logits.shape)} for ids of shape ({B}, {T}), not (batch, time, "
        f"vocabulary) = ({B}, {T}, {V}){hint}"
    )


def check_gradients(candidate: Candidate, ids: Tensor, targets: Tensor) -> None:
    """Raise Refused unless the loss is a differentiable scalar."""
    device = next(candidate.parameters()).device
    targets = targets if candidate.ignored is not None else targets.clamp(min=0)
    loss = called(lambda: candidate.loss(ids.to(device), targets.to(device)), "its loss")
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise Refused(f"candidate: its loss is {described(loss)}: give a scalar tensor")
    if not loss.requires_grad:
        raise Refused(
            "candidate: drops gradients: its output does not depend on its parameters; look for no_grad(), "
            "inference_mode() or detach() around the forward pass"
        )
    called(loss.backward, "its backward pass")
    candidate.zero_grad(set_to_none=True)


def remarks(candidate: Candidate) -> list[str]:
    """Notes on how the candidate is called."""
    found = [f"{candidate.not_called}: not used"] if candidate.not_called else []
    way = "model.loss(ids, targets)" if candidate.has_method else f"model(ids, {candidate.targets}=targets)"
    if candidate.has_method or candidate.targets is not None:
        found.append(f"its own loss is tested: {way}{IGNORED[candidate.ignored]}")
    return found


def shown(dtype: torch.dtype) -> str:
    """float32, not torch.float32."""
    return str(dtype).removeprefix("torch.")


def described(value: Any) -> str:
    """A value's type for a message."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
