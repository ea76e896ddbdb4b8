"""Collect a model's outputs (logits, loss, gradients, losses and updates of AdamW steps); compare with an oracle's.

A model follows the protocol of this project: `model(ids)`, `model.loss(ids, targets)`, a canonical state dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.numerics.errors import Measurement, Report, distance, measure_all
from reference.checkpoints.canonical import canonical_gradients
from reference.training.defaults import WEIGHT_DECAY

Batch = tuple[Tensor, Tensor]  # ids and targets, (B, T) int64 each
BuildStep = Callable[..., Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class ModelOutputs:
    """The outputs of a model, on the CPU."""

    logits: Tensor  # (B, T, V)
    loss: Tensor
    gradients: dict[str, Tensor]  # by canonical name
    losses: list[Tensor]  # of the AdamW steps
    update: dict[str, Tensor]  # by canonical name, p1 - p0 over those steps; empty if not collected


def gradients(model: Any, ids: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and canonical gradients of one batch; clears the model's gradients."""
    model.zero_grad(set_to_none=True)
    loss = model.loss(ids, targets)
    loss.backward()
    # a candidate maps its own layout to canonical names
    found = model.canonical_gradients() if hasattr(model, "canonical_gradients") else canonical_gradients(model)
    model.zero_grad(set_to_none=True)
    return loss.detach(), found


def collect_outputs(
    model: nn.Module,
    build: BuildStep,
    batch: Batch,
    small: Batch,
    steps: int,
    *,
    learning_rate: float,
    weight_decay: float = WEIGHT_DECAY,
    weights: Mapping[str, Tensor] | None = None,
    first_weights: Mapping[str, Tensor] | None = None,
) -> ModelOutputs:
    """Collect a model's outputs in eval mode. This trains the model: its weights change.

    Args:
        model: on its device, in its precision
        build: builds its training step
        batch: ids and targets (B, T) for logits and loss
        small: ids and targets for gradients and steps; may be the same object
        steps: AdamW steps, each on `small` rolled one further along B and T; 0 for none
        learning_rate, weight_decay: of those steps
        weights: the model's current weights, canonical, on the CPU: to compute the update, which needs the same memory
            again. None skips the update
        first_weights: the model's current weights, canonical. If given, the steps are taken first and these weights
            loaded again, so that AdamW's moments and the copied gradients are never in memory together: at gpt2's size
            in float64 that saves 1 GB of 6
    """
    device = next(model.parameters()).device
    (ids, targets), (small_ids, small_targets) = ([t.to(device) for t in pair] for pair in (batch, small))
    model.eval()

    def train() -> tuple[list[Tensor], dict[str, Tensor]]:
        losses, update = [], {}
        step = build(model, learning_rate=learning_rate, weight_decay=weight_decay)
        for s in range(steps):
            losses.append(step(small_ids.roll((s, s), (0, 1)), small_targets.roll((s, s), (0, 1))).cpu())
        if weights is not None:
            after = model.state_dict()
            update = {name: after[name].detach().cpu() - tensor for name, tensor in weights.items()}
        return losses, update

    losses: list[Tensor] = []
    update: dict[str, Tensor] = {}
    if steps and first_weights is not None:
        losses, update = train()
        model.zero_grad(set_to_none=True)
        model.load_state_dict(first_weights)
    with torch.no_grad():
        logits = model(ids).to("cpu", copy=True)
    loss, found = gradients(model, small_ids, small_targets)
    if small is not batch:
        with torch.no_grad():
            loss = model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
    if steps and first_weights is None:
        losses, update = train()
    return ModelOutputs(logits, loss.cpu(), {name: g.cpu() for name, g in found.items()}, losses, update)


def compare_outputs(actual: ModelOutputs, oracle: ModelOutputs) -> Report:
    """Measure a model's outputs against the oracle's."""
    agree = actual.logits.argmax(-1) == oracle.logits.argmax(-1)  # (B, T)
    report = Report(top1=float(agree.double().mean()))
    report.measurements.append(Measurement("logits", "logits", *distance(actual.logits, oracle.logits)))
    report.measurements.append(Measurement("loss", "loss", *distance(actual.loss, oracle.loss)))
    report.measurements.extend(measure_all("gradient", actual.gradients, oracle.gradients))
    # relative to the typical loss, as a loss may fall to almost zero
    typical = math.sqrt(sum(float(y) ** 2 for y in oracle.losses) / max(1, len(oracle.losses)))
    for number, (x, y) in enumerate(zip(actual.losses, oracle.losses, strict=True)):
        report.measurements.append(Measurement("trajectory", f"step {number}", *distance(x, y, typical)))
    if actual.update:
        report.measurements.extend(measure_all("update", actual.update, oracle.update))
    return report
