"""Lesson 9: a whole GPT, tiny: 27,747 numbers that learn a nursery rhyme by heart in seconds.

Everything is here: words as numbers, embeddings of words and positions, two blocks of attention and
feed-forward around a residual stream, a head that scores all 35 words, training by gradients, and speaking.
What reference/gpt.py does otherwise: GELU for ReLU, biases everywhere or nowhere, all heads in one product,
its own initialisation, and one table that serves as embedding and as head (here they are two, and the head
has a bias).

    python -m reference.lessons.tiny_gpt [WORDS]    begin with these words; without any, with several

Softmax, layer norm and cross-entropy are those of reference/functional.py, a few lines each.

Shapes: B batch, T time (up to BLOCK), C width, D = C / HEADS width of one head, V words.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from reference.cli.progress import watched
from reference.data.corpora import load_text
from reference.functional import cross_entropy, layer_norm, softmax
from reference.lessons import command, drawing

BLOCK = 6  # how many words the model sees
WIDTH = 32
HEADS = 2
LAYERS = 2


class Vocabulary:
    """The different words of a text, sorted, each with its place as its number."""

    def __init__(self, text: str) -> None:
        self.words = sorted(set(text.split()))
        self.number = {word: i for i, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """The numbers of the words of a text; a word that the rhyme does not have is a ValueError."""
        for word in text.split():
            if word not in self.number:
                raise ValueError(f"the word {word!r} is unknown: the rhyme has only {', '.join(self.words)}")
        return [self.number[word] for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        """The words of the numbers."""
        return " ".join(self.words[i] for i in ids)


class Head(nn.Module):
    """One head of causal attention: (B, T, C) -> (B, T, D). Built up step by step in attention_steps.py."""

    def __init__(self) -> None:
        super().__init__()
        D = WIDTH // HEADS
        self.key = nn.Linear(WIDTH, D, bias=False)
        self.query = nn.Linear(WIDTH, D, bias=False)
        self.value = nn.Linear(WIDTH, D, bias=False)

    def shares(self, x: Tensor) -> Tensor:
        """How much each position takes from itself and those before it: (B, T, T), rows sum to 1."""
        query, key = self.query(x), self.key(x)  # (B, T, D)
        # The root of D, the width of this head. The notebook that this model comes from divides by the root
        # of C, the width of all heads together. That is a bug: the scores come out too small by sqrt(HEADS)
        # and attention is blurred. No shape betrays it, and the model still learns: it is easily missed.
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, T, T)
        future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
        return softmax(scores.masked_fill(future, -math.inf))

    def forward(self, x: Tensor) -> Tensor:
        return self.shares(x) @ self.value(x)  # (B, T, D)


class LayerNorm(nn.Module):
    """Each position's numbers to mean 0 and variance 1, then a learned gain and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.shift = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.gain, self.shift)


class Block(nn.Module):
    """Positions talk (attention), then each one thinks by itself (feed-forward); both add to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = LayerNorm()
        self.heads = nn.ModuleList(Head() for _ in range(HEADS))
        self.mix = nn.Linear(WIDTH, WIDTH)  # lets the heads' results meet
        self.norm_2 = LayerNorm()
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm_1(x)
        x = x + self.mix(torch.cat([head(normal) for head in self.heads], dim=-1))  # HEADS times D is C again
        return x + self.narrow(self.wide(self.norm_2(x)).relu())


class TinyGPT(nn.Module):
    """Words in, scores for the next word out.

    Args:
        V: how many words there are; 35 in the rhyme, which makes 27,747 parameters

    The weights are drawn from torch's global generator.
    """

    def __init__(self, V: int) -> None:
        super().__init__()
        self.word = nn.Embedding(V, WIDTH)
        self.position = nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = LayerNorm()
        self.head = nn.Linear(WIDTH, V)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of the word after each position: (B, T) -> (B, T, V), T at most BLOCK."""
        x = self.word(ids) + self.position(torch.arange(ids.shape[1]))  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean surprise in nats at the targets, both (B, T)."""
        return cross_entropy(self(ids), targets)


def windows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Every stretch of BLOCK words of a text (N,), and the same one word on: both (N - BLOCK, BLOCK)."""
    places = torch.arange(len(ids) - BLOCK)[:, None] + torch.arange(BLOCK)
    return ids[places], ids[places + 1]


def train(
    model: TinyGPT,
    ids: Tensor,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 4,
    learning_rate: float = 1e-3,
) -> Iterator[float]:
    """Train in place on random windows of a text; yields the loss of each batch before its step."""
    inputs, targets = windows(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)  # by hand: reference/training/adamw.py
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (batch_size,), generator=generator)
        loss = model.loss(inputs[chosen], targets[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def loss_on_all(model: TinyGPT, ids: Tensor) -> float:
    """Mean loss over every window of a text; that of a batch of four jumps about it, from 0.06 to 0.5."""
    return float(model.loss(*windows(ids)))


def least_loss(ids: Tensor) -> float:
    """`loss_on_all` of a model that knows the text by heart but sees only the past within its window.

    Where the same words at the start of a window go on in several ways, the best that anyone can do is to
    expect each as often as it comes. A model with a smaller loss has seen the future.
    """
    ways: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)  # seen -> what came next, how often
    for inputs, targets in zip(*windows(ids), strict=True):
        for t in range(BLOCK):
            ways[tuple(inputs[: t + 1].tolist())][int(targets[t])] += 1
    surprises = [-n * math.log(n / nexts.total()) for nexts in ways.values() for n in nexts.values()]
    return sum(surprises) / sum(nexts.total() for nexts in ways.values())


@torch.no_grad()
def go_on(model: TinyGPT, ids: list[int], words: int, generator: torch.Generator) -> list[int]:
    """Append `words` more, each sampled from the model's probabilities after the last BLOCK words."""
    for _ in range(words):
        scores = model(torch.tensor([ids[-BLOCK:]]))[0, -1]  # (V,)
        ids = [*ids, int(torch.multinomial(softmax(scores), num_samples=1, generator=generator))]
    return ids


def shares_at(model: TinyGPT, ids: Tensor) -> list[tuple[str, Tensor]]:
    """What each head of each block takes from where, over one text (T,): a name and (T, T) for each."""
    found = []
    with torch.no_grad():
        x = model.word(ids[None]) + model.position(torch.arange(len(ids)))
        for number, block in enumerate(model.blocks, start=1):
            normal = block.norm_1(x)  # type: ignore[operator]
            for letter, head in zip("ab", block.heads, strict=True):  # type: ignore[arg-type]
                found.append((f"block {number}, head {letter}", head.shares(normal)[0]))
            x = block(x)
    return found


def main(start: str = "", steps: int = 1500, seed: int = 1337, folder: Path = drawing.FOLDER) -> None:
    """Learn the rhyme and say it, in words."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    text = load_text("nursery")
    vocabulary = Vocabulary(text)
    starts = [start] if start else ["mary", "the", "it", "little", "lamb"]
    prompts = [vocabulary.encode(words) for words in starts]  # now: an unknown word must not cost a training
    ids = torch.tensor(vocabulary.encode(text))
    V = len(vocabulary.words)
    print(f"A rhyme of {len(ids)} words, {V} different ones; <END> closes each line. It begins:")
    print("    " + vocabulary.decode(ids[:12].tolist()))
    print("    " + " ".join(str(i) for i in ids[:12].tolist()))

    torch.manual_seed(seed)
    model = TinyGPT(V)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\nThe model: {count:,} numbers, still random. It sees {BLOCK} words and scores {V} for the next.")
    print(f"Its loss is {loss_on_all(model, ids):.4f}; blind guessing would have {math.log(V):.4f}. It says:")
    generator = torch.Generator().manual_seed(seed)
    print("    > " + vocabulary.decode(go_on(model, prompts[0], 12, generator)))

    print(f"\n{steps:,} times: look at four windows, measure the surprise, turn each number to lessen it.")
    losses = list(watched(train(model, ids, steps, generator), steps))
    for step in range(0, steps, max(steps // 5, 1)):
        mean = sum(losses[step : step + 20]) / len(losses[step : step + 20])
        print(f"    from step {step:5,}   loss {mean:.2f}, the mean of a few batches")
    print(f"After training its loss is {loss_on_all(model, ids):.4f} over the whole rhyme.")
    least = least_loss(ids)
    print(f"Nobody can do better than {least:.4f}: windows begin anywhere, and after 'mary' alone")
    print("the rhyme itself goes on in two ways. Now it says:")
    for prompt in prompts:
        print("    > " + vocabulary.decode(go_on(model, prompt, 12, generator)))

    each = max(steps // 50, 1)
    rows = [
        {"step": i + each, "loss": sum(losses[i : i + each]) / each, "kind": "learning"}
        for i in range(0, steps - each + 1, each)
    ]
    rows += [{"step": step, "loss": least, "kind": "the least that is possible"} for step in (0, steps)]
    chart = drawing.curves(
        rows, "step", "loss", "kind", "Learning a rhyme by heart", f"means over {each} batches", unit="nats per word"
    )
    print(drawing.told(chart, folder / "tiny_gpt-loss.png", "Loss"))
    words = ids[6 : 6 + BLOCK]
    panels = [
        {"panel": name, "row": f"{t + 1} {vocabulary.words[a]}", "column": f"{s + 1}", "share": float(shares[t, s])}
        for name, shares in shares_at(model, words)
        for t, a in enumerate(words.tolist())
        for s in range(BLOCK)
    ]
    chart = drawing.tables(panels, "Who looks where, after learning", "row: a word; column: a word up to it", size=20)
    print(drawing.told(chart, folder / "tiny_gpt-attention.png", "Attention of the four heads"))


if __name__ == "__main__":
    parser = command.parser("tiny_gpt", __doc__)
    parser.add_argument("start", nargs="*", help="words to begin with (default: several words in turn)")
    try:
        main(" ".join(parser.parse_args().start))
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
