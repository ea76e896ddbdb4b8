"""Lesson 3: a network that sees three letters, and how large its first random numbers must be.

A table for three letters of past would have 27^3 rows, nearly all of them empty. Instead each letter gets a few
learned numbers, its embedding, the same ones wherever it stands; the embeddings of the three letters side by
side go through a hidden layer, and from there to 27 scores. What is learned of "ann" helps with "anna" and with
"enn". This is the model of Bengio et al. 2003, https://www.jmlr.org/papers/v3/bengio03a.html

Two things go wrong when its first numbers are simply drawn with variance 1:

    the scores are large         it is sure of what it cannot know; the first loss is many times log(27)
    the hidden sums are large    tanh is flat out there: its slope is nearly 0, and through 0 nobody learns

A sum of n products of numbers of variance 1 has variance n. So weights are divided by sqrt(n), n being how many
inputs a neuron has, and multiplied by a gain that makes up for what the bend takes away (Kaiming He et al. 2015,
https://arxiv.org/abs/1502.01852, for ReLU; torch takes 5/3 for tanh). The second part shows six layers of tanh,
their activations and gradients.

    python -m reference.lessons.mlp

Shapes: B batch, T letters of past, E numbers for each letter, H hidden neurons, V = 27 letters with the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from reference.cli.progress import watched
from reference.functional import cross_entropy, softmax
from reference.lessons import command, drawing
from reference.lessons.names import ALPHABET, END, examples, load_names, split_names

V = len(ALPHABET)
TANH_GAIN = 5 / 3


class MLP:
    """Three letters in, scores for the fourth out: embedding, hidden layer of tanh, output layer.

    Args:
        generator: where the first numbers come from
        block, width, hidden: T, E and H
        gain: what the hidden weights' standard deviation is, times sqrt(inputs); None leaves it at 1 undivided
        output_scale: what the output weights are multiplied by; small scores are unsure ones
    """

    def __init__(
        self,
        generator: torch.Generator,
        block: int = 3,
        width: int = 10,
        hidden: int = 200,
        gain: float | None = TANH_GAIN,
        output_scale: float = 0.01,
    ) -> None:
        inputs = block * width
        spread = 1.0 if gain is None else gain / math.sqrt(inputs)
        self.embedding = torch.randn(V, width, generator=generator)  # (V, E)
        self.w1 = torch.randn(inputs, hidden, generator=generator) * spread  # (T * E, H)
        self.b1 = torch.zeros(hidden)
        self.w2 = torch.randn(hidden, V, generator=generator) * output_scale  # (H, V)
        self.b2 = torch.zeros(V)
        for parameter in self.parameters():
            parameter.requires_grad_()

    def parameters(self) -> list[Tensor]:
        """The trained parameters."""
        return [self.embedding, self.w1, self.b1, self.w2, self.b2]

    def hidden(self, contexts: Tensor) -> Tensor:
        """Activations of the hidden neurons, between -1 and 1: (B, T) -> (B, H)."""
        side_by_side = self.embedding[contexts].flatten(1)  # (B, T, E) -> (B, T * E)
        return (side_by_side @ self.w1 + self.b1).tanh()

    def __call__(self, contexts: Tensor) -> Tensor:
        """Scores of the next letter: (B, T) -> (B, V)."""
        return self.hidden(contexts) @ self.w2 + self.b2


def train(
    model: MLP,
    contexts: Tensor,
    targets: Tensor,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 32,
    learning_rate: float = 0.1,
) -> Iterator[float]:
    """Plain gradient descent on random batches, slower by ten in the last quarter; yields each batch's loss."""
    parameters = model.parameters()
    for step in range(steps):
        chosen = torch.randint(len(contexts), (batch_size,), generator=generator)
        loss = cross_entropy(model(contexts[chosen]), targets[chosen])
        rate = learning_rate if step < 0.75 * steps else 0.1 * learning_rate
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= rate * gradient
        yield loss.item()


@torch.no_grad()
def loss_on(model: MLP, data: tuple[Tensor, Tensor]) -> float:
    """Mean loss over all of some examples."""
    return float(cross_entropy(model(data[0]), data[1]))


@torch.no_grad()
def invent(model: MLP, block: int, generator: torch.Generator) -> str:
    """A new name, letter by letter."""
    ids = [0] * block
    while True:
        shares = softmax(model(torch.tensor([ids[-block:]])))[0]
        ids.append(int(torch.multinomial(shares, 1, generator=generator)))
        if ids[-1] == 0 or len(ids) > 30:
            return "".join(ALPHABET[i] for i in ids[block:]).rstrip(END)


def saturated(activations: Tensor) -> float:
    """The share of activations beyond 0.97, where the slope of tanh, 1 - tanh^2, is less than 0.06."""
    return float((activations.abs() > 0.97).double().mean())


def through_layers(gain: float, depth: int, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of `depth` layers of 100 tanh neurons, and the gradient that arrives at each: (1000, 100).

    Args:
        gain: standard deviation of the weights times sqrt(100). 1 keeps the variance of a plain sum, but tanh
            takes a little away in each layer; 5/3 makes up for it; more drives it into its flat ends.
    """
    x = torch.randn(1000, 100, generator=generator)
    activations = []
    for _ in range(depth):
        w = torch.randn(100, 100, generator=generator) * gain / math.sqrt(100)
        x = (x @ w).tanh().requires_grad_()
        activations.append(x)
    wanted = torch.randn(1000, 100, generator=generator)  # random gradients of variance 1 at the end
    gradients = torch.autograd.grad((x * wanted).sum(), activations)
    return [a.detach() for a in activations], list(gradients)


def histogram(values: Tensor, kind: str, panel: str, bound: float) -> drawing.Rows:
    """Shares of values in 41 equal bins from -bound to bound."""
    counts = torch.histc(values, bins=41, min=-bound, max=bound)
    middles = torch.linspace(-bound, bound, 42)[:-1] + bound / 41
    shares = (counts / values.numel()).tolist()
    return [{"panel": panel, "kind": kind, "x": x, "share": s} for x, s in zip(middles.tolist(), shares, strict=True)]


def main(folder: Path = drawing.FOLDER, steps: int = 6000) -> None:
    """Learn names, badly begun and well; then look at what six layers do to numbers."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    names = load_names()
    training, validation, _ = (examples(part, block=3) for part in split_names(names))
    print(f"{len(names):,} names out of GPT-2's vocabulary, such as {', '.join(names[:4])}. Of three letters, what")
    print(f"is the next? {len(training[1]):,} examples to learn from. Knowing nothing has loss {math.log(V):.2f}.\n")

    starts = {"drawn with variance 1": (None, 1.0), "Kaiming": (TANH_GAIN, 0.01)}
    rows = []
    for name, (gain, output_scale) in starts.items():
        generator = torch.Generator().manual_seed(1337)
        model = MLP(generator, gain=gain, output_scale=output_scale)
        share = saturated(model.hidden(training[0][:1000]))
        print(f"First numbers {name}: {sum(p.numel() for p in model.parameters()):,} of them.")
        print(f"    {share:4.0%} of the hidden neurons are saturated; the loss is {loss_on(model, training):.2f}")
        losses = list(watched(train(model, *training, steps, generator), steps))
        means = torch.tensor(losses).view(-1, max(len(losses) // 60, 1)).mean(dim=1).tolist()
        each = len(losses) // len(means)
        rows += [{"step": (i + 1) * each, "loss": min(m, 6.0), "start": name} for i, m in enumerate(means)]
        print(f"    after {steps:,} steps {loss_on(model, training):.2f}, on names kept back", end=" ")
        print(f"{loss_on(model, validation):.2f}. It invents:")
        print("    > " + ", ".join(invent(model, 3, generator) for _ in range(8)))
    why = "cut off at 6; bad first numbers cost long"
    chart = drawing.curves(rows, "step", "loss", "start", "Loss of batches", why, unit="nats per letter")
    print(drawing.told(chart, folder / "mlp-loss.png", "Both losses"))

    generator = torch.Generator().manual_seed(1337)
    small = MLP(generator, width=2, hidden=100)
    count = sum(p.numel() for p in small.parameters())
    print(f"\nA smaller one, two numbers for each letter, {count:,} in all:", end=" ")
    for _ in watched(train(small, *training, steps, generator), steps):
        pass
    print(f"loss {loss_on(small, training):.2f},\non names kept back {loss_on(small, validation):.2f}.", end=" ")
    print("Two numbers are a place on paper, so one can see which letters it takes for alike.")
    letters = [
        {"x": x, "y": y, "text": c, "kind": "vowel" if c in "aeiou" else "end" if c == END else "consonant"}
        for c, (x, y) in zip(ALPHABET, small.embedding.tolist(), strict=True)
    ]
    chart = drawing.labels(letters, "Where the letters lie", "embeddings of two numbers, learned")
    print(drawing.told(chart, folder / "mlp-letters.png", "The letters by their embeddings"))

    print("\nSix layers of 100 tanh neurons; standard deviation of what comes out, and of the gradients coming in:")
    rows = []
    for gain, name in ((0.7, "too small, 0.7"), (1.0, "plain, 1"), (TANH_GAIN, "for tanh, 5/3"), (5.0, "too large, 5")):
        activations, gradients = through_layers(gain, 6, torch.Generator().manual_seed(1337))
        last, first = activations[-1], gradients[0]
        print(f"    gain {name:<15} outputs {activations[0].std():.2f} to {last.std():.2f}", end="   ")
        print(f"saturated {saturated(last):4.0%}   gradients {first.std():.2f} in the first layer, 1.00 in the last")
        for layer in (0, 5):
            rows += histogram(activations[layer], f"layer {layer + 1}", f"activations, {name}", 1.0)
        for layer in (0, 5):
            rows += histogram(gradients[layer], f"layer {layer + 1}", f"gradients, {name}", 3.0)
    chart = drawing.histograms(rows, "Through six layers", "left: what comes out; right: what comes back")
    print(drawing.told(chart, folder / "mlp-layers.png", "Activations and gradients"))


if __name__ == "__main__":
    command.start("mlp", __doc__, main)
