"""Lesson 2: the bigram model, first by counting, then as a network that learns the same thing.

A language model says how probable each next character is. The smallest one looks at a single character of the
past: after "q", how often did "u" follow in the text? It can be had in two ways.

    counting    tally every pair of neighbours, divide each row by its sum
    learning    start from random scores, and turn them with gradients until the text is least surprising

Both are one table of V x V numbers, and the second way ends where the first begins: at log(counts) the
gradient is exactly zero. What counting cannot do is grow: with 8 characters of past instead of 1 the table
has V**8 rows, and almost all of them are empty. A network can share what it learned between contexts, and
that is the road from here to GPT.

    python -m reference.lessons.bigram [CORPUS]    a text by name or file; without one, a list of names

Shapes: B batch, T time, V characters in the alphabet. Losses are in nats (natural logarithm) per character:
e^loss is how many characters the model hesitates between.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from reference.cli.progress import watched
from reference.data.corpora import load_text
from reference.lessons import command, drawing
from reference.lessons.names import load_names
from reference.mkl_kernels import choose_kernels
from reference.plots.charts import visible

choose_kernels()


def read(text: str) -> tuple[str, Tensor]:
    """The alphabet of a text, sorted, and the text as positions in it: (V characters, ids (N,) int64).

    >>> alphabet, ids = read("abba")
    >>> alphabet, ids.tolist()
    ('ab', [0, 1, 1, 0])
    """
    alphabet = "".join(sorted(set(text)))
    position = {character: i for i, character in enumerate(alphabet)}
    return alphabet, torch.tensor([position[character] for character in text])


# ---- The first way: counting ----


def count_pairs(ids: Tensor, V: int) -> Tensor:
    """How often b comes right after a: ids (N,) -> counts (V, V) int64, row a, column b; they sum to N - 1.

    >>> count_pairs(torch.tensor([0, 1, 1, 0]), 2)
    tensor([[0, 1],
            [1, 1]])
    """
    pairs = ids[:-1] * V + ids[1:]  # one number for each pair, so that one tally counts them all
    return torch.bincount(pairs, minlength=V * V).view(V, V)


def probabilities_from_counts(counts: Tensor, smoothing: float = 0.0) -> Tensor:
    """Each row of counts (V, V) divided by its sum: P(b | a), float64.

    Args:
        smoothing: pretend to have seen every pair this many times more. Without it a pair that the text does
            not have is impossible, and one such pair in another text makes that text infinitely surprising.

    Raises ValueError for a negative smoothing, and for a row that would have nothing in it.
    """
    if not smoothing >= 0.0:
        raise ValueError(f"smoothing {smoothing}: give 0 or more pretended sightings of each pair")
    seen = counts.double() + smoothing
    totals = seen.sum(dim=1, keepdim=True)  # (V, 1)
    if (totals == 0.0).any():
        rows = (totals[:, 0] == 0.0).nonzero()[:, 0].tolist()
        raise ValueError(f"nothing ever follows id {rows[0]}: give a smoothing above 0")
    return seen / totals


def surprise(probabilities: Tensor, counts: Tensor) -> float:
    """Mean of -log P(b | a) over all the pairs that were counted; both (V, V).

    A pair (a, b) costs the same wherever it stands, so the mean over a million characters is a sum over V x V
    cells.
    """
    return float(-torch.xlogy(counts, probabilities).sum() / counts.sum())  # xlogy: 0 log 0 = 0


# ---- The second way: learning ----


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target]: logits (..., V), targets (...) int64, a scalar."""
    log_probabilities = logits - logits.logsumexp(dim=-1, keepdim=True)
    return -log_probabilities.gather(-1, targets.unsqueeze(-1)).mean()


class Bigram(nn.Module):
    """A table of scores: row a holds the logits of what follows a. All that this model can ever know.

    Args:
        V: size of the alphabet
        generator: where the random scores before training come from; None for torch's global one
    """

    def __init__(self, V: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V, generator=generator))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next character at each place: (B, T) -> (B, T, V). A lookup; the past is not used."""
        return self.table[ids]

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean surprise at the targets, both (B, T)."""
        return cross_entropy(self(ids), targets)

    def probabilities(self) -> Tensor:
        """The table as probabilities P(b | a), (V, V) float64, to compare with the counts."""
        return self.table.detach().double().softmax(dim=1)


def gradient_by_hand(table: Tensor, counts: Tensor) -> Tensor:
    """The gradient of the mean surprise at a whole text with respect to the table, (V, V), without autograd.

    A pair (a, b) pushes its own score up by 1 and all scores of row a down by softmax(row a), so in total
    d loss / d table[a, b] = (times a occurs * P(b | a) - times b followed a) / pairs: what the model expects
    less what the text has. It is zero where P(b | a) is the counted share, that is, at table = log(counts).
    """
    expected = counts.sum(dim=1, keepdim=True) * table.softmax(dim=1)
    return (expected - counts) / counts.sum()


def random_batch(
    ids: Tensor,
    batch_size: int,
    block_size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Stretches of a text from random places and, one further on, what comes next: both (B, T)."""
    starts = torch.randint(len(ids) - block_size, (batch_size, 1), generator=generator)
    places = starts + torch.arange(block_size)  # (B, T)
    return ids[places], ids[places + 1]


def train(
    model: Bigram,
    ids: Tensor,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 32,
    block_size: int = 8,
    learning_rate: float = 1e-3,
) -> Iterator[float]:
    """Train in place; yields the loss of each batch as it is seen, before the step that it causes."""
    # AdamW gives every score a step of its own size, so that rare characters learn too: reference/training/adamw.py
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = model.loss(*random_batch(ids, batch_size, block_size, generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield loss.item()


# ---- Both ways speak ----


def generate(probabilities: Tensor, first: int, length: int, generator: torch.Generator) -> list[int]:
    """Draw `length` ids one after another, each from the row of the one before; `first` is not among them."""
    ids = [first]
    for _ in range(length):
        ids.append(int(torch.multinomial(probabilities[ids[-1]], num_samples=1, generator=generator)))
    return ids[1:]


def table(probabilities: Tensor, alphabet: str, chosen: list[int], panel: str) -> list[dict[str, object]]:
    """Some rows and columns of a table (V, V), to be drawn."""
    return [
        {"panel": panel, "row": visible(alphabet[a]), "column": visible(alphabet[b]), "share": share}
        for a in chosen
        for b, share in zip(chosen, probabilities[a, chosen].tolist(), strict=True)
    ]


def main(corpus: str = "names", steps: int = 10_000, folder: Path = drawing.FOLDER) -> None:
    """Count, learn, compare and speak, in words."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    alphabet, ids = read("\n".join(load_names()) if corpus == "names" else load_text(corpus))
    V = len(alphabet)
    if len(ids) < 100:
        raise ValueError(f"{corpus} has {len(ids)} characters: give a text of at least 100 to learn from")
    cut = int(0.9 * len(ids))  # the last tenth is neither counted nor trained on: it shows what carries over
    counts, unseen = count_pairs(ids[:cut], V), count_pairs(ids[cut:], V)
    print(f"{corpus}: {len(ids):,} characters, {V} different ones.")
    print(f"Someone who knows only the alphabet hesitates between {V} characters: loss {math.log(V):.4f}.\n")

    print(f"Counting the {cut - 1:,} pairs of the first nine tenths:")
    for cell in counts.flatten().argsort(descending=True)[:5].tolist():
        a, b = divmod(cell, V)
        print(f"    {alphabet[a]!r} is followed by {alphabet[b]!r} {int(counts[a, b]):,} times")
    counted = probabilities_from_counts(counts, smoothing=1.0)
    print("Their shares are a model, with every pair counted once too often, so that none is impossible.")
    print(f"Its loss is {surprise(counted, counts):.4f},", end=" ")
    print(f"on the kept-back tenth {surprise(counted, unseen):.4f}.\n")

    generator = torch.Generator().manual_seed(1337)
    model = Bigram(V, generator)
    print("Now a network: a table of random scores that has never seen a text, wrong and sure of it.")
    print(f"Its loss is {surprise(model.probabilities(), counts):.4f}, worse than knowing nothing.")
    losses = list(watched(train(model, ids[:cut], steps, generator), steps))
    learned = model.probabilities()
    print(f"After {steps:,} steps the last batch has a loss of {losses[-1]:.4f}, by good or bad luck.")
    print(f"On all nine tenths it is {surprise(learned, counts):.4f},", end=" ")
    print(f"on the kept-back tenth {surprise(learned, unseen):.4f}.")
    floor = surprise(counts / counts.sum(dim=1, keepdim=True).clamp(min=1), counts)
    print(f"No table can do better on the nine tenths than their bare shares: {floor:.4f}.\n")

    a = int(counts.sum(dim=1).argmax())
    print(f"Both were asked what follows {alphabet[a]!r}, the commonest character:")
    for b in counted[a].argsort(descending=True)[:5].tolist():
        print(f"    {alphabet[b]!r:>5}  counted {counted[a, b]:6.2%}   learned {learned[a, b]:6.2%}")
    size = float(gradient_by_hand((counts + 1.0).double().log(), counts + 1.0).abs().max())
    print(f"At the logarithm of the counts, the largest gradient is {size:.0e}: nothing is left to learn.\n")

    for name, probabilities in (("The counts say", counted), ("The network says", learned)):
        generator = torch.Generator().manual_seed(1337)  # the same dice for both
        said = "".join(alphabet[i] for i in generate(probabilities, int(ids[0]), 200, generator))  # begun like the text
        print(f"{name}:\n    > " + said.replace("\n", " | ") + "\n")
    print("Almost words, and no sense: one character of past is not enough. Next: looking further back.")

    chosen = sorted(counts.sum(dim=1).argsort(descending=True)[:30].tolist())
    rows = table(counted, alphabet, chosen, "counted") + table(learned, alphabet, chosen, "learned")
    chart = drawing.tables(rows, "What follows each character", "row: a character; column: the next")
    print(drawing.told(chart, folder / "bigram.png", "Both tables"))


if __name__ == "__main__":
    parser = command.parser("bigram", __doc__)
    parser.add_argument("corpus", nargs="?", default="names", help="a text by name or file (default: a list of names)")
    try:
        main(parser.parse_args().corpus)
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
