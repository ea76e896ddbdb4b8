"""Lesson 6: eight letters, joined in pairs, then pairs of pairs: a tree, which is a convolution in disguise.

The network of lesson 3 throws all its letters into one layer at once. Here two neighbours are merged into one
vector, two such into the next, and so on: 8 letters, 4 pairs, 2 fours, 1 eight. Each level has the same small
network everywhere. This is the shape of WaveNet (van den Oord et al. 2016, https://arxiv.org/abs/1609.03499).

    tree    8 letters in, the scores of the ninth out. For each letter of a text the whole tree, once more
    slid    a whole text in, scores after every letter out. Level by level: the merged vector of places t - d and
            t, with d = 1, 2, 4. Neighbouring trees share most of their branches, so each is computed once

`slid` is a dilated causal convolution: causal, because it looks back only; dilated, because it skips d - 1
places. It gives the same numbers, to the last digits, for less than half of the merging. A GPT goes one step further:
each place looks at all before it, and chooses by what is there. That is lesson 7.

    python -m reference.lessons.wavenet

Shapes: B batch, T = 8 letters, L letters of a text, C channels, V = 27 letters with the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from reference.cli.progress import watched
from reference.functional import cross_entropy, layer_norm
from reference.lessons import command, drawing
from reference.lessons.names import ALPHABET, END, examples, load_names, split_names

BLOCK = 8
V = len(ALPHABET)


class Level:
    """Two vectors in, one out: (..., 2 C) -> (..., H). A product, a norm (lesson 4), tanh.

    Layer norm, and not the batch norm of the original, because a place then needs no company.
    """

    def __init__(self, channels: int, hidden: int, generator: torch.Generator) -> None:
        inputs = 2 * channels
        self.weight = torch.randn(inputs, hidden, generator=generator) * (5 / 3) / math.sqrt(inputs)
        self.gain = torch.ones(hidden)
        self.shift = torch.zeros(hidden)

    def __call__(self, pair: Tensor) -> Tensor:
        return layer_norm(pair @ self.weight, self.gain, self.shift).tanh()


class WaveNet:
    """Embeddings, three levels of merging, scores."""

    def __init__(self, generator: torch.Generator, channels: int = 10, hidden: int = 68) -> None:
        self.embedding = torch.randn(V, channels, generator=generator)
        sizes = [channels, hidden, hidden, hidden]
        self.levels = [Level(a, b, generator) for a, b in pairwise(sizes)]
        self.output = torch.randn(hidden, V, generator=generator) * 0.1
        self.bias = torch.zeros(V)

    def parameters(self) -> list[Tensor]:
        """The trained parameters."""
        levels = [p for level in self.levels for p in (level.weight, level.gain, level.shift)]
        return [self.embedding, *levels, self.output, self.bias]

    def tree(self, contexts: Tensor) -> Tensor:
        """Scores of the letter after 8 others: (B, 8) -> (B, V)."""
        if contexts.shape[1] != BLOCK:
            raise ValueError(f"contexts of {contexts.shape[1]} letters: give {BLOCK}, filled up in front with the end")
        x = self.embedding[contexts]  # (B, 8, C)
        for level in self.levels:
            B, T, C = x.shape
            x = level(x.reshape(B, T // 2, 2 * C))  # neighbours side by side: half as many places, twice as wide
        return x[:, 0] @ self.output + self.bias

    def slid(self, ids: Tensor) -> Tensor:
        """Scores after every letter of a text: (L,) -> (L, V). What lies before the text counts as the end."""
        padded = torch.cat([torch.zeros(BLOCK - 1, dtype=ids.dtype), ids])
        x = self.embedding[padded]  # (7 + L, C)
        for number, level in enumerate(self.levels):
            d = 2**number
            x = level(torch.cat([x[:-d], x[d:]], dim=-1))  # place t of the result: places t - d and t
        return x @ self.output + self.bias

    def convolved(self, ids: Tensor) -> Tensor:
        """`slid` in torch's own words: conv1d with two taps and a dilation."""
        padded = torch.cat([torch.zeros(BLOCK - 1, dtype=ids.dtype), ids])
        x = self.embedding[padded].T  # (C, 7 + L): channels first
        for number, level in enumerate(self.levels):
            older, newer = level.weight.chunk(2)  # (C, H) each
            taps = torch.stack([older.T, newer.T], dim=-1)  # (H, C, 2)
            x = F.conv1d(x[None], taps, dilation=2**number)[0]
            x = layer_norm(x.T, level.gain, level.shift).tanh().T
        return x.T @ self.output + self.bias


class Flat:
    """All letters into one hidden layer, as in lesson 3, with the same norm, for comparison."""

    def __init__(self, generator: torch.Generator, hidden: int, channels: int = 10) -> None:
        self.embedding = torch.randn(V, channels, generator=generator)
        self.level = Level(BLOCK * channels // 2, hidden, generator)
        self.output = torch.randn(hidden, V, generator=generator) * 0.1
        self.bias = torch.zeros(V)

    def parameters(self) -> list[Tensor]:
        """The trained parameters."""
        return [self.embedding, self.level.weight, self.level.gain, self.level.shift, self.output, self.bias]

    def tree(self, contexts: Tensor) -> Tensor:
        """Scores of the letter after 8 others: (B, 8) -> (B, V)."""
        return self.level(self.embedding[contexts].flatten(1)) @ self.output + self.bias


def merges(letters: int) -> tuple[int, int]:
    """How often two vectors are merged for scores after each of so many letters: by trees, and slid.

    >>> merges(8)
    (56, 34)
    """
    trees = letters * (BLOCK - 1)  # 4 + 2 + 1 for each
    return trees, sum(letters + BLOCK - 1 - (2 ** (n + 1) - 1) for n in range(3))


def train(
    model: WaveNet | Flat, data: tuple[Tensor, Tensor], steps: int, generator: torch.Generator
) -> Iterator[float]:
    """Gradient descent on batches of 32, slower by ten in the last quarter; yields the loss of each."""
    parameters = [p.requires_grad_() for p in model.parameters()]
    for step in range(steps):
        chosen = torch.randint(len(data[0]), (32,), generator=generator)
        loss = cross_entropy(model.tree(data[0][chosen]), data[1][chosen])
        rate = 0.1 if step < 0.75 * steps else 0.01
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= rate * gradient
        yield loss.item()


def main(folder: Path = drawing.FOLDER, steps: int = 3000) -> None:
    """One name through the tree and slid over; then the tree against a flat layer of as many numbers."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    model = WaveNet(torch.Generator().manual_seed(1337))
    contexts, targets = examples(["diondre"], BLOCK)
    print("A name of seven letters is eight questions, each with one letter more of past:")
    for row, target in zip(contexts, targets, strict=True):
        print(f"    {''.join(ALPHABET[i] for i in row)}  {ALPHABET[target]}")
    x = model.embedding[contexts]
    shapes = [tuple(x.shape)]
    for level in model.levels:
        x = level(x.view(len(x), x.shape[1] // 2, -1))
        shapes.append(tuple(x.shape))
    print(f"Through the tree, pairs merged at each level: {' -> '.join(map(str, shapes))}\n")

    text = torch.tensor([0] + [ALPHABET.index(c) for c in "diondre"])
    double = WaveNet(torch.Generator().manual_seed(1337))
    double.embedding, double.output = double.embedding.double(), double.output.double()
    for level in double.levels:
        level.weight = level.weight.double()
    asked, at_once, convolved = double.tree(contexts), double.slid(text), double.convolved(text)
    print("The eight answers one by one, and slid over the name once. Largest difference, in float64:")
    print(f"    slid, from tree       {float((at_once - asked).abs().max()):.0e}")
    print(f"    conv1d, from tree     {float((convolved - asked).abs().max()):.0e}")
    for letters in (8, 1000):
        trees, once = merges(letters)
        print(f"    for {letters:5,} letters, pairs merged: {trees:5,} in trees, {once:5,} slid")
    print("A change of the last letter moves the last answer alone, so it is causal:", end=" ")
    changed = text.clone()
    changed[-1] = 26
    print((double.slid(changed) - at_once).abs().amax(dim=1).gt(0).int().tolist(), "\n")

    training, validation, _ = (examples(part, BLOCK) for part in split_names(load_names()))
    rows = []
    for name in ("flat", "tree"):
        generator = torch.Generator().manual_seed(1337)
        learner: WaveNet | Flat = WaveNet(generator) if name == "tree" else Flat(generator, hidden=202)
        count = sum(p.numel() for p in learner.parameters())
        losses = torch.tensor(list(watched(train(learner, training, steps, generator), steps)))
        with torch.no_grad():
            after = [float(cross_entropy(learner.tree(c), t)) for c, t in (training, validation)]
        print(f"{name}: {count:,} numbers, {steps:,} steps, loss {after[0]:.2f}, on names kept back {after[1]:.2f}")
        means = losses.view(30, -1).mean(dim=1).tolist()
        rows += [{"step": (i + 1) * steps // 30, "loss": m, "shape": name} for i, m in enumerate(means)]
    chart = drawing.curves(
        rows,
        "step",
        "loss",
        "shape",
        "Eight letters at once, or as a tree",
        "as many numbers each",
        unit="nats per letter",
    )
    print(drawing.told(chart, folder / "wavenet.png", "Losses of both"))

    print("\nThe tree invents:")
    said = [invent(learner, generator) for _ in range(8)]
    print("    > " + ", ".join(said))


@torch.no_grad()
def invent(model: WaveNet | Flat, generator: torch.Generator) -> str:
    """A new name, letter by letter."""
    ids = [0] * BLOCK
    while True:
        shares = model.tree(torch.tensor([ids[-BLOCK:]])).softmax(dim=-1)[0]
        ids.append(int(torch.multinomial(shares, 1, generator=generator)))
        if ids[-1] == 0 or len(ids) > 30:
            return "".join(ALPHABET[i] for i in ids[BLOCK:]).rstrip(END)


if __name__ == "__main__":
    command.start("wavenet", __doc__, main)
