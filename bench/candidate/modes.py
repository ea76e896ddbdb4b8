"""Eval and train mode: dropout that is active in eval mode, another function in train mode, state kept between calls.

The candidate is built twice, with dropout 0 and 0.1. In eval mode both are the reference. In train mode the first is
the reference; the second has the reference's expected loss, if it drops anything.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.adapter import Build, Candidate
from bench.candidate.diagnose import Cause
from bench.candidate.dropouts import Dropouts, active_dropouts, others
from bench.candidate.examination import DROPPED, EXPECTED, TRAIN, Examination, Unjudged
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
        # a mean loss says nothing more where the function in train mode is another
        trained = all(m.over(seen.allowed) <= 1.0 for m in seen.report.measurements if m.name == TRAIN)
        if judge_eval_mode(seen, dropped, ids, expected) and trained:
            judge_expected_loss(seen, dropped, oracle, ids, expected)

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


def judge_expected_loss(
    seen: Examination, dropped: Candidate, oracle: nn.Module, ids: Tensor, expected: Tensor
) -> None:
    """Compare mean losses in train mode with dropout.

    The targets are the likeliest tokens without dropout, so that each dropout raises the loss.
    """
    many, best = ids.repeat(COPIES, 1), expected.argmax(-1).repeat(COPIES, 1)
    device = next(dropped.parameters()).device

    def losses(model: nn.Module, where: torch.device, seeds: range) -> Tensor:
        found = []
        model.train()
        for seed in seeds:
            torch.manual_seed(seed)
            with torch.no_grad():
                logits = called(lambda: model(many.to(where)), "a call in train mode").double().cpu()
            found.append(F.cross_entropy(logits.flatten(0, 1), best.flatten()))
        model.eval()
        return torch.stack(found)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, second = losses(dropped, device, range(2))
        if first == second:
            seen.remarks.append(f"it has no dropout: built with dropout {DROPOUT}, it drops nothing in train mode")
            return
        own = losses(dropped, device, range(CALLS))
        right = losses(oracle, torch.device("cpu"), range(CALLS, 2 * CALLS))
    deviation = math.sqrt(float(own.var() + right.var()) / CALLS)
    apart = float((own.mean() - right.mean()).abs())
    measurement = Measurement("expected", EXPECTED, apart / deviation, apart)
    seen.report.measurements.append(measurement)
    if measurement.over(seen.allowed) > 1.0:
        more = "more" if own.mean() > right.mean() else "less"
        seen.causes.append(
            Cause(
                f"in train mode it drops {more} than GPT-2",
                "GPT-2 drops the sum of the embeddings, the attention weights, and the output of both projections into "
                "the residual stream",
                f"mean loss {own.mean():.4f} over {CALLS} calls with dropout {DROPOUT}, the reference's "
                f"{right.mean():.4f}",
            )
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
