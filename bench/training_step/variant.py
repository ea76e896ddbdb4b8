"""A training step's arithmetic from gradients to new weights, with each choice that people make differently.

Of each kind of choice, the first is the reference step's; the words of the others are those of a known mistake.
Everything is a vector of all parameters, so that a variant takes a millisecond per step: hundreds can be tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from bench.training_step.hyperparameters import Hyperparameters

LOSS_SCALE = 2.0**16  # of torch.amp.GradScaler at its start
CLIP_EPS = 1e-6  # as torch adds it to the norm


class Sum(StrEnum):
    """How the gradients of micro-batches become one."""

    TOKENS = "the mean over all targets"
    MEANS = "micro-batches of unequal size weigh the same (a mean of means)"
    UNDIVIDED = "the loss is not divided by the number of micro-batches"
    TWICE_DIVIDED = "the loss is divided twice by the number of micro-batches"
    LAST = "gradients are cleared before every micro-batch: only the last one counts"
    LAST_DIVIDED = "gradients are cleared before every micro-batch: only the last one counts, divided by their number"
    LAST_WEIGHED = "gradients are cleared before every micro-batch: only the last one counts, by its share of targets"
    FIRST = "only the first micro-batch is used"
    NOT_LAST = "the last micro-batch is dropped"
    NOT_LAST_WEIGHED = "the last micro-batch is dropped, but its targets are counted"
    TARGETS = "the loss is a sum over targets, not their mean"


class Exchange(StrEnum):
    """What ranks exchange."""

    MEAN = "the mean over ranks of their gradients"
    CLIPPED = "each rank clips its own gradient, before the ranks' mean"
    FIRST = "ranks exchange the gradient of the first micro-batch alone: whether they do is set after the forward pass"
    NOTHING = "ranks do not exchange gradients: each trains a model of its own"
    SUM = "gradients are summed over ranks, not averaged"


class Clip(StrEnum):
    """What is clipped."""

    JOINT = "the joint norm"
    NONE = "gradients are not clipped, or only after the update"
    TENSOR = "each tensor is clipped by its own norm"
    VALUE = "each value is clipped (clip_grad_value_)"
    MICRO = "gradients are clipped after each micro-batch"
    MICRO_AND_JOINT = "gradients are clipped after each micro-batch, and once more"
    UNDIVIDED = "gradients are clipped before they are divided by the number of micro-batches"
    SCALED = "gradients are clipped while they are multiplied by the loss scale"
    HALF = "the limit of clipping is half of what was given"
    TRAINED = "the joint norm leaves out tensors that are not trained"


class Decay(StrEnum):
    """Where weight decay enters."""

    DECOUPLED = "multiplies the weights before the update"
    GRADIENT = "weight decay adds to the gradient (L2, torch.optim.Adam)"
    UNSCALED = "weight decay is not multiplied by the learning rate"
    AFTER = "weights decay after the update, not before"


class Decayed(StrEnum):
    """The tensors that decay."""

    MATRICES = "tensors of two dimensions"
    ALL = "every tensor decays, biases and norms too"
    NONE = "nothing decays"
    NOT_BIASES = "norm gains decay"
    NOT_NORMS = "biases of linear layers decay"
    LINEAR = "embeddings do not decay"
    NOT_POSITIONS = "the position table does not decay"
    VECTORS = "the groups are exchanged: biases and norms decay, matrices do not"


class Update(StrEnum):
    """The optimizer."""

    ADAM = "Adam's"
    AMSGRAD = "AMSGrad"
    NESTEROV = "NAdam"
    SGD = "plain gradient descent (SGD)"
    SIGN = "Lion"


class Corrected(StrEnum):
    """The moments that are corrected for starting at zero."""

    BOTH = "both moments"
    NEITHER = "no bias correction"
    FIRST = "bias correction of the first moment alone"
    SECOND = "bias correction of the second moment alone"


class Eps(StrEnum):
    """Where eps is added."""

    OUTSIDE = "to the root of the corrected second moment"
    BEFORE = "eps is added before the bias correction of the second moment"
    INSIDE = "eps is inside the root"


@dataclass(frozen=True)
class Variant:
    """One way to make a training step; the defaults are the reference step's."""

    sum: Sum = Sum.TOKENS
    exchange: Exchange = Exchange.MEAN
    clears: bool = True  # whether gradients are cleared between steps
    clears_untrained: bool = True  # also those of tensors that the optimizer does not have
    clip: Clip = Clip.JOINT
    decay: Decay = Decay.DECOUPLED
    decayed: Decayed = Decayed.MATRICES
    update: Update = Update.ADAM
    corrected: Corrected = Corrected.BOTH
    first_step: int = 1  # of the bias correction
    eps_at: Eps = Eps.OUTSIDE
    tied_twice: bool = False  # whether the token table's gradient counts twice
    # None: as in the hyperparameters
    eps: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Masks:
    """Masks over the vector of all parameters, from names and shapes; float64 zeros and ones."""

    decayed: dict[Decayed, Tensor]
    tokens: Tensor  # the token table
    names: list[str]  # of the tensors
    sizes: list[int]  # numbers of elements of the tensors

    @classmethod
    def of(cls, shapes: dict[str, torch.Size]) -> Masks:
        """The masks of canonical names."""

        def mask(*chosen: bool) -> Tensor:
            pairs = zip(shapes.values(), chosen, strict=True)
            return torch.cat([torch.full((shape.numel(),), float(one), dtype=torch.float64) for shape, one in pairs])

        matrix = {name: len(shape) >= 2 for name, shape in shapes.items()}
        rules = {
            Decayed.MATRICES: [matrix[n] for n in shapes],
            Decayed.ALL: [True for n in shapes],
            Decayed.NONE: [False for n in shapes],
            Decayed.NOT_BIASES: [not n.endswith("bias") for n in shapes],
            Decayed.NOT_NORMS: ["ln_" not in n for n in shapes],
            Decayed.LINEAR: [matrix[n] and n not in ("wte.weight", "wpe.weight") for n in shapes],
            Decayed.NOT_POSITIONS: [matrix[n] and n != "wpe.weight" for n in shapes],
            Decayed.VECTORS: [not matrix[n] for n in shapes],
        }
        return cls(
            {rule: mask(*chosen) for rule, chosen in rules.items()},
            mask(*(n == "wte.weight" for n in shapes)),
            list(shapes),
            [shape.numel() for shape in shapes.values()],
        )


class Arithmetic:
    """A variant's state over several steps. Each step starts at the weights that it is given, not at its own.

    Args:
        variant: to compute
        given: hyperparameters
        masks: of the parameters
        trained: (n,) 1 for weights that the optimizer has, else 0; None for all
    """

    def __init__(self, variant: Variant, given: Hyperparameters, masks: Masks, trained: Tensor | None = None) -> None:
        self.variant, self.given, self.masks = variant, given, masks
        self.trained = torch.ones_like(masks.tokens) if trained is None else trained
        self.steps = 0
        zeros = torch.zeros_like(masks.tokens)
        self.m = self.v = self.highest = self.left = zeros  # never changed in place

    def change(
        self, weights: Tensor, gradients: Sequence[Tensor], counts: Sequence[int], rate: float, ranks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """The change of all weights in the next step: a constant part, and one proportional to the learning rate.

        Args:
            weights: before the step (n,)
            gradients: of each micro-batch's mean loss (n,)
            counts: targets of each micro-batch
            rate: learning rate
            ranks: number of processes; micro-batches stand rank after rank, as many of each
        """
        variant, decay = self.variant, self.variant.weight_decay
        decay = self.given.weight_decay if decay is None else decay
        mask = self.masks.decayed[variant.decayed]
        gradient = self.gradient(gradients, counts, ranks)
        if variant.decay is Decay.GRADIENT:
            gradient = gradient + decay * mask * weights
        step = self.direction(gradient)
        constant = torch.zeros_like(weights)
        if variant.decay is Decay.DECOUPLED:
            step = step + decay * mask * weights
        elif variant.decay is Decay.UNSCALED:
            constant = -decay * mask * weights
        elif variant.decay is Decay.AFTER:
            step = step + decay * mask * (weights - rate * step)
        return constant * self.trained, -rate * step * self.trained

    def gradient(self, gradients: Sequence[Tensor], counts: Sequence[int], ranks: int) -> Tensor:
        """Sum, exchange and clip the gradients of micro-batches: the first rank's."""
        variant, number = self.variant, len(gradients) // ranks
        if variant.tied_twice:
            gradients = [g * (1.0 + self.masks.tokens) for g in gradients]
        begins = range(0, len(gradients), number)
        terms = [self.terms(gradients[n : n + number], counts[n : n + number]) for n in begins]  # by rank
        clips = variant.clip is not Clip.MICRO
        if ranks == 1 or variant.exchange is Exchange.NOTHING:
            total = self.added(terms[0])
        elif variant.exchange is Exchange.FIRST:
            total = self.added([torch.stack([own[0] for own in terms]).mean(0), *terms[0][1:]])
        else:
            totals = [self.added(own) for own in terms]
            if variant.exchange is Exchange.CLIPPED:
                totals, clips = [self.clipped(own) for own in totals], False
            total = torch.stack(totals).sum(0) / (1 if variant.exchange is Exchange.SUM else ranks)
        total = self.clipped(total) if clips else total
        total = total / number if variant.clip is Clip.UNDIVIDED else total
        self.left = total  # clipping works in place
        return total

    def terms(self, gradients: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """The gradients of one rank's micro-batches, each with its factor."""
        number, targets = len(gradients), sum(counts)
        factors = {
            Sum.TOKENS: [count / targets for count in counts],
            Sum.MEANS: [1.0 / number] * number,
            Sum.UNDIVIDED: [1.0] * number,
            Sum.TWICE_DIVIDED: [number**-2.0] * number,
            Sum.LAST: [0.0] * (number - 1) + [1.0],
            Sum.LAST_DIVIDED: [0.0] * (number - 1) + [1.0 / number],
            Sum.LAST_WEIGHED: [0.0] * (number - 1) + [counts[-1] / targets],
            Sum.FIRST: [1.0] + [0.0] * (number - 1),
            Sum.NOT_LAST: [count / max(1, targets - counts[-1]) for count in counts[:-1]] + [0.0],
            Sum.NOT_LAST_WEIGHED: [count / targets for count in counts[:-1]] + [0.0],
            Sum.TARGETS: [float(count) for count in counts],
        }[self.variant.sum]
        if self.variant.clip is Clip.UNDIVIDED:
            factors = [factor * number for factor in factors]
        return [factor * gradient for gradient, factor in zip(gradients, factors, strict=True)]

    def added(self, terms: Sequence[Tensor]) -> Tensor:
        """The sum of one rank's terms, on top of what was not cleared."""
        variant = self.variant
        total = self.left * ((1.0 - self.trained) * (not variant.clears_untrained) if variant.clears else 1.0)
        for term in terms:
            total = total + term
            if variant.clip in (Clip.MICRO, Clip.MICRO_AND_JOINT):
                total = self.clipped(total)
        return total

    def clipped(self, gradient: Tensor) -> Tensor:
        """A gradient after clipping."""
        limit = self.given.clip
        match self.variant.clip:
            case Clip.NONE:
                return gradient
            case Clip.VALUE:
                return gradient.clamp(-limit, limit)
            case Clip.TENSOR:
                return torch.cat([part * scale(part, limit) for part in torch.split(gradient, self.masks.sizes)])
            case Clip.SCALED:
                return gradient * scale(gradient * LOSS_SCALE, limit)
            case Clip.TRAINED:
                return gradient * scale(gradient * self.trained, limit)
            case Clip.HALF:
                return gradient * scale(gradient, limit / 2)
            case _:
                return gradient * scale(gradient, limit)

    def direction(self, gradient: Tensor) -> Tensor:
        """The update for a learning rate of 1, without decoupled decay."""
        variant = self.variant
        beta1, beta2 = variant.betas or self.given.betas
        eps = self.given.eps if variant.eps is None else variant.eps
        t = self.steps + variant.first_step
        self.steps += 1
        if variant.update is Update.SGD:
            return gradient
        self.m = beta1 * self.m + (1.0 - beta1) * gradient
        self.v = beta2 * self.v + (1.0 - beta2) * gradient * gradient
        if variant.update is Update.SIGN:
            return self.m.sign()
        first = 1.0 - beta1**t if variant.corrected in (Corrected.BOTH, Corrected.FIRST) else 1.0
        second = 1.0 - beta2**t if variant.corrected in (Corrected.BOTH, Corrected.SECOND) else 1.0
        m, v = self.m / first, self.v
        if variant.update is Update.NESTEROV:
            m = beta1 * self.m / (1.0 - beta1 ** (t + 1)) + (1.0 - beta1) * gradient / (1.0 - beta1**t)
        if variant.update is Update.AMSGRAD:
            v = self.highest = torch.maximum(self.highest, self.v)
        match variant.eps_at:
            case Eps.OUTSIDE:
                return m / ((v / second).sqrt() + eps)
            case Eps.BEFORE:
                return m * math.sqrt(second) / (v.sqrt() + eps)
            case Eps.INSIDE:
                return m / (v / second + eps).sqrt()


def scale(gradient: Tensor, limit: float) -> float:
    """The factor that brings a gradient's norm to at most `limit`."""
    return min(1.0, limit / (float(torch.linalg.vector_norm(gradient)) + CLIP_EPS))
