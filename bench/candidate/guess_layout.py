"""Guess the layout of a candidate from its tensors, and verify the guess by the numbers.

Names of a known scheme (canonical, hf, nanogpt) decide alone: the examination that follows is their proof. Other names
leave open how q, k and v are joined and which way square matrices lie. Then the candidate is called with the weights in
each possible layout, and the one with the reference's logits is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.candidate.adapter import COMPILED, Build
from bench.candidate.layouts import LAYOUTS, Layout, layout_of
from bench.candidate.recorder import only_python
from bench.candidate.validate import built, learned, logits_at
from bench.numerics.errors import distance
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.user_code.load_function import STOPS
from bench.weights.layout_code import function_text, side_by_side
from bench.weights.recognise import Recognised, describe, recognise
from bench.weights.rules import Rule, apply
from reference.config import GPTConfig
from reference.gpt import GPT

AUTO = "auto"
# Three layers and five heads of width 8: no number is the product or the double of others.
PROBE = GPTConfig(block_size=22, vocab_size=131, n_layer=3, n_head=5, n_embd=40)
ROUND = GPTConfig(block_size=96, vocab_size=320, n_layer=3, n_head=2, n_embd=128)  # for models that want heads of 64
LARGE = 5_000_000  # parameters; a model that can only be built larger is not called in every layout
VERIFIED = 1e-4  # error of the logits: far above rounding to float32, far below another order of q, k and v
CLEAR = 0.1  # a wrong layout gives logits off by 1: one that is ten times nearer is the right one of a wrong model


class LayoutUnknown(ValueError):
    """A layout that cannot be guessed. `help` has the tensors beside ours, and a layout function to complete."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help


@dataclass
class Guess:
    """The layout to test a candidate with.

    Args:
        name: for the report
        sure: whether the user, the names or the numbers say so; else a difference may be the layout's
        notes: for the report
        help: the tensors beside ours, and a layout function; empty if the user gave the layout
    """

    layout: Layout
    name: str
    sure: bool = True
    notes: list[str] = field(default_factory=list)
    help: str = ""


@dataclass
class Seen:
    """A candidate's tensors at a size at which it can be built."""

    config: GPTConfig
    shapes: dict[str, tuple[int, ...]]
    found: Recognised


def choose_layout(wanted: str | Callable[..., dict[str, Tensor]], build: Build, config: GPTConfig) -> Guess:
    """The layout that the user names; for "auto", the one that the candidate's tensors suggest.

    Args:
        wanted: see `layout_of`, or "auto"
        build: the candidate's
        config: of the examination

    Raises LayoutUnknown if some tensors have no place. A candidate that cannot be built gets the canonical layout: the
    examination says why.
    """
    if wanted != AUTO:
        name = wanted if isinstance(wanted, str) else getattr(wanted, "__qualname__", type(wanted).__name__)
        return Guess(layout_of(wanted), name)
    seen = look_at_tensors(build, config)
    if seen is None:
        return Guess(LAYOUTS["canonical"], "canonical")
    found = seen.found
    if found.scheme is not None:
        return Guess(LAYOUTS[found.scheme], f"{found.scheme} (by its names)")
    if found.unknown or found.missing:
        what = [f"{one!r} has no place" for one in found.unknown[:1]] or [f"nothing is {found.missing[0]!r}"]
        raise LayoutUnknown(
            f"layout: cannot be guessed: {what[0]}; complete the function above and give it by --layout FILE.py:layout",
            help_text(seen),
        )
    errors = errors_of(build, seen) if seen.config.parameter_count() <= LARGE else [math.inf]
    best = min(range(len(errors)), key=lambda n: errors[n])
    others = min((error for n, error in enumerate(errors) if n != best), default=math.inf)
    verified = errors[best] <= VERIFIED
    clear = errors[best] <= CLEAR * min(1.0, others)
    found.rules = [found.rules, *found.alternatives][best if verified or clear else 0]
    words = describe(found.rules)
    if verified:
        note = f"layout guessed, and verified by the numbers: {words}"
    elif clear:
        note = f"layout guessed: {words}, with which the logits are nearest to the reference's, by {errors[best]:.1e}"
    else:
        note = f"layout guessed, not verified: {words}; none that the shapes allow gives the reference's logits"
    return Guess(layout_by(found.rules), f"{words} (guessed)", verified or clear, [note], help_text(seen))


@contextmanager
def with_help() -> Iterator[None]:
    """Print the help of a layout that cannot be guessed; the error goes on."""
    try:
        yield
    except LayoutUnknown as error:
        print(error.help)
        raise


@contextmanager
def with_advice(wanted: Any, build: Build, config: GPTConfig) -> Iterator[None]:
    """Add to an error of a layout that does not fit which one does."""
    try:
        yield
    except ValueError as error:
        named = (
            isinstance(wanted, str) and wanted in LAYOUTS and str(error).startswith("layout: ")
        )  # an error in the user's own function speaks for itself
        hint = advice(wanted, build, config) if named else None
        if hint is None:
            raise
        raise ValueError(f"{error}: {hint}") from error


def doubts(guess: Guess, wanted: Any, build: Build, config: GPTConfig) -> list[str]:
    """Notes on a candidate that differs: another layout with which it does not."""
    hint = advice(wanted, build, config) if guess.sure else None
    return [] if hint is None else [hint]


def check_settled(guess: Guess, explained: bool) -> None:
    """Raise LayoutUnknown for a difference that may be the layout's: neither is confirmed."""
    if not guess.sure and not explained:
        raise LayoutUnknown(
            "layout: guessed, and neither it nor the difference is confirmed, so the candidate is not judged: check "
            "the function above and give it by --layout FILE.py:layout",
            guess.help,
        )


def layout_by(rules: list[Rule]) -> Layout:
    """A layout of rules."""
    return lambda weights, config: apply(rules, weights, config)


def look_at_tensors(build: Build, config: GPTConfig) -> Seen | None:
    """Build the candidate at a size whose numbers tell its tensors apart, else at its own; None if neither works."""
    for size in (replace(PROBE, bias=config.bias), replace(ROUND, bias=config.bias), config):
        try:
            with torch.random.fork_rng(devices=[]):
                module = build(size)
            buffers = {name for name, _ in module.named_buffers()}
            shapes = {
                name.removeprefix(COMPILED): tuple(tensor.shape)
                for name, tensor in module.state_dict().items()
                if name not in buffers and tensor.is_floating_point()
            }
        except STOPS:
            raise
        except BaseException:  # the candidate's own code: the examination reports it
            continue
        if not shapes:
            return None
        found = recognise(shapes, size)
        if not found.missing or size == config:
            return Seen(size, shapes, found)
    return None


def errors_of(build: Build, seen: Seen) -> list[float]:
    """For each possible layout, the error of the candidate's logits; infinite if it raises. Ends with the first right
    one."""
    weights, ids = sharp_state_dict(seen.config), random_batch(seen.config, 2, seen.config.block_size)[0]
    oracle = GPT(seen.config).double()
    oracle.load_state_dict(weights)
    with torch.no_grad():
        expected = oracle(ids)
    errors = []
    for rules in (seen.found.rules, *seen.found.alternatives):
        errors.append(error_of(build, rules, seen.config, weights, ids, expected))
        if errors[-1] <= VERIFIED:
            break
    return errors


def error_of(
    build: Build, rules: list[Rule], config: GPTConfig, weights: dict[str, Tensor], ids: Tensor, expected: Tensor
) -> float:
    """The error of the candidate's logits with the weights in a layout, in float64 or else float32."""
    for precision in ("float64", "float32"):
        try:
            candidate = built(build, layout_by(rules), config, weights, torch.device("cpu"), precision)
            candidate = learned(candidate, (ids, ids))
            with only_python():
                logits = logits_at(candidate, ids)
        except ValueError:
            continue
        if logits.shape == expected.shape:
            return distance(logits.double(), expected)[0]
    return math.inf


def help_text(seen: Seen) -> str:
    """The candidate's tensors beside ours, and a layout function."""
    lines = side_by_side(seen.found, seen.shapes, seen.config)
    text = function_text(seen.found, seen.shapes, seen.config)
    return "\n".join(["Tensors, {i} for the layer, {h} for the head", *lines, "", "A layout function", "", text])


def advice(wanted: Any, build: Build, config: GPTConfig) -> str | None:
    """For a candidate that differs, or does not take its weights: another layout with which it is the same function.

    Args:
        wanted: the layout that was used
    """
    seen = look_at_tensors(build, config)
    if seen is None or seen.found.missing or seen.config.parameter_count() > LARGE:
        return None
    errors = errors_of(build, seen)
    if not errors or errors[-1] > VERIFIED:
        return None
    right = [seen.found.rules, *seen.found.alternatives][len(errors) - 1]
    if len(errors) > 1:
        changed = next(new for old, new in zip(seen.found.rules, right, strict=True) if old != new)
        usual = next(old for old in seen.found.rules if old.own == changed.own)
        return (
            f"the same function if {changed.own} is read as {changed.axes}, not {usual.axes} (see docs/candidate.md): "
            f"{reading(changed)}; weights loaded by its names give another function"
        )
    scheme = seen.found.scheme
    if wanted == scheme or (wanted == AUTO and scheme is not None):
        return None
    turned = {wanted, scheme} == {"hf", "nanogpt"}
    way = f"--layout {scheme}" if scheme is not None else "--layout auto"
    return f"{'transposed? ' if turned else ''}try {way}, with which it is the same function at a small size"


def reading(rule: Rule) -> str:
    """What an unusual arrangement is, in words."""
    if len(rule.ours) == 3:
        return "q, k and v interleaved"
    return "a transposed square matrix"
