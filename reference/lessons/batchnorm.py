"""Lesson 4: norms, which bring numbers back to mean 0 and variance 1 wherever they have drifted, and their slopes.

Good first weights (lesson 3) keep activations in range at the start; after some training that is over. A norm
does it at every step: subtract the mean, divide by the standard deviation, then a learned gain and shift, so that
the network may have it otherwise. The two that matter differ only in what the mean is taken over:

    batch norm    for each channel over the batch and all other places (Ioffe and Szegedy 2015)
    layer norm    for each example and place over its channels (Ba, Kiros and Hinton 2016), as in every GPT

One function, `normalise`, is both, and one formula, `normalise_backward`, has the slopes of both. Batch norm
makes an example's result depend on its company in the batch. Used alone later, it has none: so running means are
kept while training, to be used then. Layer norm needs nothing of the kind, which is one reason why GPTs have it.

    python -m reference.lessons.batchnorm

Shapes: B batch, T places, C channels. (B, C) or (B, T, C).

https://arxiv.org/abs/1502.03167 and https://arxiv.org/abs/1607.06450
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from reference.cli.progress import watched
from reference.functional import cross_entropy
from reference.lessons import command, drawing
from reference.lessons.names import ALPHABET, examples, load_names, split_names

EPS = 1e-5  # keeps a channel that never changes from being divided by 0


def normalise(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 over some dimensions; also 1 / standard deviation, for the way back.

    The variance divides by how many numbers there are, not by one less.
    """
    centred = x - x.mean(dim=over, keepdim=True)
    inverse = (centred.square().mean(dim=over, keepdim=True) + EPS).rsqrt()
    return centred * inverse, inverse


def normalise_backward(d_normal: Tensor, normal: Tensor, inverse: Tensor, over: tuple[int, ...]) -> Tensor:
    """The gradient in x from that in `normalise(x)`.

    Every x moves the mean and the variance that all the others are measured by. Through the mean, the average
    gradient is taken away; through the variance, what of it lies along the result itself: neither a common shift
    nor a common stretch of x changes anything after the norm, so their slopes must be 0.
    """
    shift = d_normal.mean(dim=over, keepdim=True)
    stretch = (d_normal * normal).mean(dim=over, keepdim=True)
    return inverse * (d_normal - shift - normal * stretch)


def batch_dimensions(x: Tensor) -> tuple[int, ...]:
    """All but the last, the channels. That is (0,) for (B, C) and (0, 1) for (B, T, C).

    With (0,) for (B, T, C) too, the bug of many a first batch norm, each of the T places has its own mean and
    variance, from T times fewer numbers. No shape complains, and training goes on, a little worse.
    """
    return tuple(range(x.ndim - 1))


class BatchNorm:
    """Batch norm with a memory: `__call__` while training, `alone` afterwards.

    Args:
        channels: C
        momentum: how much of the running statistics is replaced by those of each batch
    """

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        self.gain = torch.ones(channels)
        self.shift = torch.zeros(channels)
        self.momentum = momentum
        self.running_mean = torch.zeros(channels)
        self.running_var = torch.ones(channels)

    def __call__(self, x: Tensor) -> Tensor:
        """By the statistics of this batch, which are remembered; (..., C) with at least two rows."""
        dims = batch_dimensions(x)
        count = x.numel() // x.shape[-1]
        if count < 2:
            raise ValueError("one row has no variance: give a batch of at least 2, or use `alone`")
        normal, _ = normalise(x, dims)
        with torch.no_grad():
            mean, var = x.mean(dim=dims), x.var(dim=dims)  # this one divides by count - 1: it is an estimate
            self.running_mean = self.running_mean + self.momentum * (mean - self.running_mean)
            self.running_var = self.running_var + self.momentum * (var - self.running_var)
        return normal * self.gain + self.shift

    def alone(self, x: Tensor) -> Tensor:
        """By the running statistics: an example gives the same output in any batch."""
        return (x - self.running_mean) * (self.running_var + EPS).rsqrt() * self.gain + self.shift


class LayerNorm:
    """Layer norm: the same while training and afterwards."""

    def __init__(self, channels: int) -> None:
        self.gain = torch.ones(channels)
        self.shift = torch.zeros(channels)

    def __call__(self, x: Tensor) -> Tensor:
        """Each row (..., C) by its own mean and variance."""
        return normalise(x, (-1,))[0] * self.gain + self.shift


def norm_backward(d_y: Tensor, x: Tensor, gain: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `normalise(x, over) * gain + shift` in x, gain and shift, by hand."""
    normal, inverse = normalise(x, over)
    rows = batch_dimensions(x)  # gain and shift are one for all rows: their slopes add up
    return normalise_backward(d_y * gain, normal, inverse, over), (d_y * normal).sum(rows), d_y.sum(rows)


Norm = Callable[[Tensor], Tensor]


class DeepMLP:
    """The model of lesson 3 with five hidden layers of tanh, and a norm before each."""

    def __init__(self, norm: Callable[[int], Norm] | None, gain: float, generator: torch.Generator) -> None:
        sizes = [30, *[100] * 5]
        self.embedding = torch.randn(len(ALPHABET), 10, generator=generator)
        self.weights = [torch.randn(a, b, generator=generator) * gain / math.sqrt(a) for a, b in pairwise(sizes)]
        self.norms: list[Norm] = [norm(100) if norm else lambda x: x for _ in self.weights]
        self.output = torch.randn(100, len(ALPHABET), generator=generator) * 0.01

    def parameters(self) -> list[Tensor]:
        """The trained parameters."""
        norms = [norm for norm in self.norms if isinstance(norm, BatchNorm | LayerNorm)]
        learned = [parameter for norm in norms for parameter in (norm.gain, norm.shift)]
        return [self.embedding, *self.weights, self.output, *learned]

    def __call__(self, contexts: Tensor) -> Tensor:
        """Scores of the next letter: (B, 3) -> (B, V)."""
        x = self.embedding[contexts].flatten(1)
        for weight, norm in zip(self.weights, self.norms, strict=True):
            x = norm(x @ weight).tanh()
        return x @ self.output


def train(model: DeepMLP, data: tuple[Tensor, Tensor], steps: int, generator: torch.Generator) -> list[float]:
    """Gradient descent on batches of 32 at 0.1; the loss of each."""
    parameters, losses = [p.requires_grad_() for p in model.parameters()], []
    for _ in watched(range(steps), steps):
        chosen = torch.randint(len(data[0]), (32,), generator=generator)
        loss = cross_entropy(model(data[0][chosen]), data[1][chosen])
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.1 * gradient
        losses.append(loss.item())
    return losses


def main(folder: Path = drawing.FOLDER, steps: int = 1200) -> None:
    """Both norms, their slopes, what company does, and a deep network with weights of the wrong size."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    generator = torch.Generator().manual_seed(1337)
    x = 3.0 + 5.0 * torch.randn(32, 4, 68, generator=generator)  # (B, T, C)
    print("Numbers of mean 3 and standard deviation 5, 32 examples x 4 places x 68 channels:")
    for name, over in (("batch norm", (0, 1)), ("layer norm", (2,)), ("the bug", (0,))):
        shape = tuple(x.mean(dim=over, keepdim=True).shape)
        print(f"    {name:<11} means of shape {shape!s:<11} each of {x.numel() // math.prod(shape):>3} numbers", end="")
        print(f"   after it: mean {abs(normalise(x, over)[0].mean()):.2f}, deviation {normalise(x, over)[0].std():.2f}")
    print("The bug averages over the batch alone: right for (B, C), and (B, T, C) passes without an error.\n")

    leaf, gain = x.double().requires_grad_(), torch.rand(68, generator=generator, dtype=torch.float64)
    d_y = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    print("Slopes by hand against autograd, largest difference:")
    for name, over in (("batch norm", (0, 1)), ("layer norm", (2,))):
        (theirs,) = torch.autograd.grad((normalise(leaf, over)[0] * gain), leaf, d_y)
        ours, _, _ = norm_backward(d_y, leaf.detach(), gain, over)
        print(f"    {name:<11} {float((ours - theirs).abs().max()):.0e}")
    print("Stretched by 10, the input has slopes a tenth as large:", end=" ")
    stretched, _, _ = norm_backward(d_y, 10 * leaf.detach(), gain, (2,))
    print(f"{float(stretched.norm() / ours.norm()):.3f}\n")

    norm = BatchNorm(68)
    for _ in range(60):
        norm(3.0 + 5.0 * torch.randn(32, 68, generator=generator))
    one, others = x[:1, 0], x[1:, 0]
    company = norm(torch.cat([one, others[:7]]))[0] - norm(torch.cat([one, others[7:14]]))[0]
    print("The same example among seven others, and among another seven. Largest change of its result:")
    print(f"    batch norm  {float(company.abs().max()):.1f}   by running statistics, and layer norm: 0.0")
    mean, deviation = norm.running_mean.mean(), norm.running_var.sqrt().mean()
    print(f"Running mean {float(mean):.1f}, deviation {float(deviation):.1f}.\n")

    training, _, _ = (examples(part, block=3) for part in split_names(load_names()))
    rows = []
    print(f"Five layers of tanh on names, {steps:,} steps, loss over all examples:")
    for gain_of_weights, size in ((0.3, "weights too small, 0.3"), (5.0, "weights too large, 5.0")):
        for kind, name in ((None, "no norm"), (BatchNorm, "batch norm"), (LayerNorm, "layer norm")):
            generator = torch.Generator().manual_seed(1337)
            model = DeepMLP(kind, gain_of_weights, generator)
            losses = torch.tensor(train(model, training, steps, generator))
            with torch.no_grad():
                print(f"    {size}   {name:<10}  {float(cross_entropy(model(training[0]), training[1])):.2f}")
            means = losses.view(30, -1).mean(dim=1).tolist()
            kind_of = f"{name}, {gain_of_weights}"
            rows += [{"step": (i + 1) * steps // 30, "loss": min(m, 4.0), "kind": kind_of} for i, m in enumerate(means)]
    chart = drawing.curves(
        rows, "step", "loss", "kind", "Five layers with weights of the wrong size", unit="nats per letter"
    )
    print(drawing.told(chart, folder / "batchnorm.png", "Losses with and without norms"))


if __name__ == "__main__":
    command.start("batchnorm", __doc__, main)
