"""Mistakes that training steps are known to make, as changes of a `Variant`, with what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from bench.training_step.variant import Clip, Corrected, Decay, Decayed, Eps, Exchange, Sum, Update, Variant


@dataclass(frozen=True)
class Mistake:
    """A known mistake: the fields of `Variant` that it changes."""

    what: str
    remedy: str
    changes: tuple[tuple[str, Any], ...]

    @property
    def fields(self) -> set[str]:
        """The names of the fields."""
        return {name for name, _ in self.changes}


def mistake(what: str, remedy: str, **changes: Any) -> Mistake:
    """A mistake from keyword arguments."""
    return Mistake(what, remedy, tuple(changes.items()))


GROUPS = "two parameter groups: weight_decay for p.dim() >= 2, 0.0 for the rest"
DIVIDE = "weigh each micro-batch's mean loss by its number of targets / the number of all targets of the step"
HALF = "divide each micro-batch's loss by the number of micro-batches before backward()"
WITHIN = "clip once, after the last backward() and before optimizer.step()"

MISTAKES: tuple[Mistake, ...] = (
    # gradients of micro-batches
    mistake("micro-batches of unequal size weigh the same (a mean of means)", DIVIDE, sum=Sum.MEANS),
    mistake("the loss is not divided by the number of micro-batches", HALF, sum=Sum.UNDIVIDED),
    mistake("the loss is divided twice by the number of micro-batches", HALF, sum=Sum.TWICE_DIVIDED),
    mistake(
        "gradients are cleared before every micro-batch: only the last one counts",
        "call zero_grad() once per step",
        sum=Sum.LAST,
    ),
    mistake(
        "gradients are cleared before every micro-batch: only the last one counts, divided by their number",
        "call zero_grad() once per step",
        sum=Sum.LAST_DIVIDED,
    ),
    mistake(
        "gradients are cleared before every micro-batch: only the last one counts, by its share of all targets",
        "call zero_grad() once per step",
        sum=Sum.LAST_WEIGHED,
    ),
    mistake("only the first micro-batch is used", "call backward() for each micro-batch", sum=Sum.FIRST),
    mistake("the last micro-batch is dropped", "train on the last micro-batch too, if it is short", sum=Sum.NOT_LAST),
    mistake(
        "the last micro-batch is dropped, but its targets are counted",
        "train on the last micro-batch too, if it is short",
        sum=Sum.NOT_LAST_WEIGHED,
    ),
    mistake("the loss is a sum over targets, not their mean", "reduction='mean'", sum=Sum.TARGETS),
    mistake(
        "gradients are never cleared: each step adds to those of all steps before",
        "call optimizer.zero_grad() once per step",
        clears=False,
    ),
    mistake(
        "the gradient of the tied token table counts twice",
        "give the optimizer one parameter for embedding and head",
        tied_twice=True,
    ),
    mistake(
        "gradients of tensors that the optimizer does not have are never cleared, and count when clipping",
        "give the optimizer every parameter, and call model.zero_grad()",
        clears_untrained=False,
    ),
    # what ranks exchange
    mistake(
        "each rank clips its own gradient, before the ranks' mean",
        "average the gradients over the ranks first, then clip",
        exchange=Exchange.CLIPPED,
    ),
    mistake(
        "ranks exchange the gradient of the first micro-batch alone: whether they do is set after the forward pass",
        "set require_backward_grad_sync before the forward pass, or run forward and backward in no_sync()",
        exchange=Exchange.FIRST,
    ),
    mistake(
        "ranks do not exchange gradients: each trains a model of its own",
        "call the DistributedDataParallel module, not its .module; the last micro-batch not in no_sync()",
        exchange=Exchange.NOTHING,
    ),
    mistake("gradients are summed over ranks, not averaged", "divide by the number of ranks", exchange=Exchange.SUM),
    # clipping
    mistake("the joint norm leaves out tensors that are not trained", WITHIN, clip=Clip.TRAINED),
    mistake("gradients are not clipped, or only after the update", WITHIN, clip=Clip.NONE),
    mistake("each tensor is clipped by its own norm", "one clip_grad_norm_ over all parameters", clip=Clip.TENSOR),
    mistake("each value is clipped (clip_grad_value_)", "clip_grad_norm_", clip=Clip.VALUE),
    mistake("gradients are clipped after each micro-batch", WITHIN, clip=Clip.MICRO),
    mistake("gradients are clipped after each micro-batch, and once more", WITHIN, clip=Clip.MICRO_AND_JOINT),
    mistake(
        "gradients are clipped before they are divided by the number of micro-batches",
        "divide first, then clip",
        clip=Clip.UNDIVIDED,
    ),
    mistake(
        "gradients are clipped while they are multiplied by the loss scale",
        "scaler.unscale_(optimizer) before clipping",
        clip=Clip.SCALED,
    ),
    mistake("the limit of clipping is half of what was given", "check max_norm", clip=Clip.HALF),
    # weight decay
    mistake("every tensor decays, biases and norms too", GROUPS, decayed=Decayed.ALL),
    mistake("nothing decays", GROUPS, decayed=Decayed.NONE),
    mistake("norm gains decay", GROUPS, decayed=Decayed.NOT_BIASES),
    mistake("biases of linear layers decay", GROUPS, decayed=Decayed.NOT_NORMS),
    mistake("embeddings do not decay", GROUPS, decayed=Decayed.LINEAR),
    mistake("the position table does not decay", GROUPS, decayed=Decayed.NOT_POSITIONS),
    mistake("the groups are exchanged: biases and norms decay, matrices do not", GROUPS, decayed=Decayed.VECTORS),
    mistake(
        "weight decay adds to the gradient (L2, torch.optim.Adam)",
        "torch.optim.AdamW, which decays weights apart from the gradient",
        decay=Decay.GRADIENT,
    ),
    mistake(
        "weight decay is not multiplied by the learning rate", "decay by learning rate * decay", decay=Decay.UNSCALED
    ),
    mistake("weights decay after the update, not before", "decay first, as torch does", decay=Decay.AFTER),
    *(
        mistake(f"weight decay is {value}", "pass the weight decay on", weight_decay=value)
        for value in (0.01, 0.001, 0.05, 0.2, 1.0)
    ),
    # the optimizer
    mistake("no bias correction", "divide both moments by 1 - beta^t", corrected=Corrected.NEITHER),
    mistake(
        "bias correction of the first moment alone", "divide both moments by 1 - beta^t", corrected=Corrected.FIRST
    ),
    mistake(
        "bias correction of the second moment alone", "divide both moments by 1 - beta^t", corrected=Corrected.SECOND
    ),
    mistake("bias correction begins at t = 2", "count the first step as t = 1", first_step=2),
    mistake(
        "eps is added before the bias correction of the second moment",
        "add eps to sqrt(v / (1 - beta2^t))",
        eps_at=Eps.BEFORE,
    ),
    mistake("eps is inside the root", "add eps to the root", eps_at=Eps.INSIDE),
    *(
        mistake(f"eps is {value:g}", "AdamW's eps is 1e-8", eps=value)
        for value in (1e-5, 1e-6, 1e-7, 1e-9, 1e-10, 1e-12)
    ),
    *(
        mistake(f"betas are {value}", "betas=(0.9, 0.95)", betas=value)
        for value in ((0.9, 0.999), (0.9, 0.99), (0.9, 0.98), (0.95, 0.9), (0.95, 0.95), (0.8, 0.95), (0.9, 0.9))
    ),
    mistake("AMSGrad", "amsgrad=False", update=Update.AMSGRAD),
    mistake("NAdam", "torch.optim.AdamW", update=Update.NESTEROV),
    mistake("plain gradient descent (SGD)", "torch.optim.AdamW", update=Update.SGD),
    mistake("Lion", "torch.optim.AdamW", update=Update.SIGN),
)


def combined(mistakes: tuple[Mistake, ...]) -> Variant:
    """The readable step with some mistakes, of different fields."""
    return replace(Variant(), **dict(change for one in mistakes for change in one.changes))


def singles_and_pairs(ranks: int = 1) -> Iterator[tuple[Mistake, ...]]:
    """Each mistake alone, then two at once where they change different fields; one rank exchanges nothing."""
    possible = [one for one in MISTAKES if ranks > 1 or "exchange" not in one.fields]
    yield from ((one,) for one in possible)
    yield from (pair for pair in combinations(possible, 2) if not pair[0].fields & pair[1].fields)
