"""Eval and train mode: dropout that is active in eval mode, another function in train mode, state kept between calls.

The candidate is built twice, with dropout 0 and 0.1. In eval mode both are the reference. In train mode the first is
the reference. The second, if it drops anything, has the reference's expected loss, and its logits are as far from those
in eval mode.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.adapter import Build, Candidate
from bench.candidate.diagnose import Cause
from bench.candidate.dropouts import Dropouts, active_dropouts, dropouts_in, others
from bench.candidate.examination import DROPPED, EXPECTED, SPREAD, TRAIN, Examination, Unjudged
from bench.candidate.initial_weights import initial_remarks
from bench.candidate.layouts import Layout
from bench.candidate.recorder import only_python, tensors_in
from bench.candidate.traced_gpt import Changes, traced_forward
from bench.candidate.validate import built, learned, logits_at
from bench.numerics.errors import Measurement, distance
from bench.numerics.outputs import Batch
from bench.user_code.refused import called
from reference.config import GPTConfig
from reference.gpt import GPT

DROPOUT = 0.1
CALLS = 32  # of each model in train mode
DROPPING = ("embedding", "weights", "projection", "mlp")  # activations of which GPT-2 drops some
COPIES = 4  # of the batch in each call


def judge_modes(
    seen: Examination,
    build: Build,
    layout: Layout,
    config: GPTConfig,
    weights: dict[str, Tensor],
    pair: Batch,
    device: torch.device,
    explained: tuple[Tensor, Changes] | None = None,
) -> None:
    """Add what differs in eval mode with dropout, and in train mode, to the examination of a candidate.

    Args:
        explained: its logits in eval mode, and the changes of the reference that explain them; None for a right
            candidate
    """
    ids = pair[0]
    if explained is None:
        right = GPT(replace(config, dropout=DROPOUT)).double()
        right.load_state_dict(weights)
        oracle: nn.Module = right.eval()
        with torch.no_grad():
            expected = oracle(ids)
    else:
        expected, changes = explained
        oracle = Changed(config, weights, changes).eval()

    def candidate(dropout: float) -> Candidate:
        return learned(built(build, layout, replace(config, dropout=dropout), weights, device, seen.given), pair)

    def in_train_mode() -> None:
        judge_train_mode(seen, candidate(0.0), ids, expected)

    def with_dropout() -> None:
        dropped = candidate(DROPOUT)
        if not judge_eval_mode(seen, dropped, ids, expected):
            return
        if all(m.over(seen.allowed) <= 1.0 for m in seen.report.measurements if m.name == TRAIN):
            judge_dropout(seen, dropped, oracle, ids, expected)
        else:  # means say nothing more where the function in train mode is another
            count_dropout(seen, dropped, ids)

    for name, judge in ((TRAIN, in_train_mode), (DROPPED, with_dropout)):
        try:
            judge()
        except ValueError as error:
            seen.unjudged.append(Unjudged(name, str(error).removeprefix("candidate: "), error))
    with suppress(Exception):  # only a remark
        seen.remarks += initial_remarks(candidate(0.0), build)


class Changed(nn.Module):
    """The reference with known mistakes, and with dropout in train mode."""

    def __init__(self, config: GPTConfig, weights: dict[str, Tensor], changes: Changes) -> None:
        super().__init__()
        self.config, self.weights, self.changes = config, weights, changes

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> logits (B, T, V)."""

        def watch(name: str, x: Tensor) -> Tensor:
            return F.dropout(x, DROPOUT, self.training) if name.rpartition(".")[2] in DROPPING else x

        return traced_forward(self.config, self.weights, ids, self.changes, watch=watch)


def judge_eval_mode(seen: Examination, dropped: Candidate, ids: Tensor, expected: Tensor) -> bool:
    """Whether a candidate with dropout is the reference in eval mode."""
    measurement = Measurement("logits", DROPPED, *distance(logits_at(dropped, ids), expected))
    seen.report.measurements.append(measurement)
    if measurement.over(seen.allowed) <= 1.0:
        return True
    places = active_dropouts(dropped.module, lambda: logits_at(dropped, ids))
    if places:
        remedy = "give it training=self.training, or dropout_p=self.p if self.training else 0.0"
        evidence = f"seen in a call in eval mode, with config.dropout = {DROPOUT}"
        seen.causes.append(Cause(f"active in eval mode: {places[0]}{others(places)}", remedy, evidence))
    return False


def judge_train_mode(seen: Examination, candidate: Candidate, ids: Tensor, expected: Tensor) -> None:
    """Compare the logits in train mode, with dropout 0; dropout of the candidate's own is a remark."""
    candidate.train()
    try:
        measurement = Measurement("logits", TRAIN, *distance(logits_at(candidate, ids), expected))
        if measurement.over(seen.allowed) <= 1.0:
            seen.report.measurements.append(measurement)
            return
        places = active_dropouts(candidate.module, lambda: logits_at(candidate, ids))
        with Dropouts(off=True):
            without = Measurement("logits", TRAIN, *distance(logits_at(candidate, ids), expected))
    finally:
        candidate.eval()
    if places and without.over(seen.allowed) <= 1.0:
        seen.notes.append(
            f"in train mode its logits differ, although config.dropout is 0, only by {places[0]}{others(places)}"
        )
        return
    seen.report.measurements.append(without)
    part = first_other_module(candidate, ids)
    if part is not None:
        remedy = "a GPT-2 without dropout computes the same in both modes"
        evidence = "its output in train mode is not that in eval mode, from the same input"
        seen.causes.append(Cause(f"another function in train mode: {part}", remedy, evidence))


def judge_dropout(seen: Examination, dropped: Candidate, oracle: nn.Module, ids: Tensor, expected: Tensor) -> None:
    """Compare two means over calls in train mode with dropout: the loss, and the distance from the logits in eval mode.

    The targets are the likeliest tokens without dropout, so that each dropout raises the loss. The distance shows even
    a dropout that hardly moves the loss, as that of the attention weights.
    """
    many, still = ids.repeat(COPIES, 1), expected.double().repeat(COPIES, 1, 1)
    best, device = still.argmax(-1).flatten(), next(dropped.parameters()).device

    def measured(model: nn.Module, where: torch.device, seeds: range) -> Tensor:
        """Loss and mean square distance of each call, (calls, 2)."""
        found = []
        model.train()
        for seed in seeds:
            torch.manual_seed(seed)
            with torch.no_grad():
                logits = called(lambda: model(many.to(where)), "a call in train mode").double().cpu()
            found.append(torch.stack([F.cross_entropy(logits.flatten(0, 1), best), (logits - still).square().mean()]))
        model.eval()
        return torch.stack(found)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, second = measured(dropped, device, range(2))
        if torch.equal(first, second):
            seen.remarks.append(f"it has no dropout: built with dropout {DROPOUT}, it drops nothing in train mode")
            return
        own = measured(dropped, device, range(CALLS))
        right = measured(oracle, torch.device("cpu"), range(CALLS, 2 * CALLS))
    deviations = ((own.var(0) + right.var(0)) / CALLS).sqrt()
    apart = (own.mean(0) - right.mean(0)).abs()
    found = [
        Measurement("expected", name, float(off / deviation), float(off))
        for name, off, deviation in zip((EXPECTED, SPREAD), apart, deviations, strict=True)
    ]
    seen.report.measurements += found
    worst = max(range(2), key=lambda n: found[n].error)
    if found[worst].over(seen.allowed) <= 1.0:
        return
    means = own.mean(0)[worst], right.mean(0)[worst]
    evidence = f"{found[worst].name} {means[0]:.4f} over {CALLS} calls, the reference's {means[1]:.4f}"
    seen.causes.append(other_dropout(bool(means[0] > means[1]), evidence))


def count_dropout(seen: Examination, dropped: Candidate, ids: Tensor) -> None:
    """Compare how many numbers the dropout calls set to zero, unless it drops in another way."""
    dropped.train()
    try:
        found = dropouts_in(dropped.module, lambda: logits_at(dropped, ids))
    finally:
        dropped.eval()
    (B, T), c = ids.shape, dropped.config
    right = DROPOUT * B * T * (c.n_embd + c.n_layer * (2 * c.n_embd + c.n_head * T))
    if found.dropped and not found.random and abs(found.dropped - right) > 1e-6 * right:
        evidence = f"its dropout sets {found.dropped:.0f} numbers of a batch to zero on average, GPT-2's {right:.0f}"
        link = "and" if seen.causes else "or"
        seen.causes.append(replace(other_dropout(found.dropped > right, evidence), link=link))


def other_dropout(more: bool, evidence: str) -> Cause:
    """The cause of more or less dropout than GPT-2's."""
    return Cause(
        f"in train mode it drops {'more' if more else 'less'} than GPT-2",
        "GPT-2 drops the sum of the embeddings, the attention weights, and the output of both projections into the "
        "residual stream",
        evidence,
    )


def first_other_module(candidate: Candidate, ids: Tensor) -> str | None:
    """The first submodule without children whose output is another in train mode, dropout aside."""

    def outputs(training: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        candidate.train(training)
        hooks = [
            part.register_forward_hook(
                lambda part, given, output, name=name: found.update((name, t.clone()) for t in tensors_in(output))
            )
            for name, part in candidate.module.named_modules()
            if name and next(part.children(), None) is None
        ]
        try:
            with Dropouts(off=True), only_python():
                logits_at(candidate, ids)
        finally:
            for hook in hooks:
                hook.remove()
            candidate.eval()
        return found

    trained, right = outputs(True), outputs(False)
    for name, tensor in right.items():
        if name in trained and (trained[name].shape != tensor.shape or distance(trained[name], tensor)[0] > 1e-9):
            return f"{name} ({type(candidate.module.get_submodule(name)).__name__})"
    return None
