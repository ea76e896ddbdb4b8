"""Lesson 10: the same on letters, with the model of reference/gpt.py, and how warm it should speak.

From here on the model is no longer the lesson's own: `GPT` is the readable GPT-2 of this project, trained by its
own step. It learns four texts, letter by letter: counting ("Number 7 comes before 8. "), very short stories,
very short programs, and Shakespeare where PARITYGPT_SHAKESPEARE names a copy of the file.

    shape          the models that these texts were first learned with have 2.7 and 6.4 million numbers and take
                   many minutes. Here it is a far smaller one, in seconds; --stated takes the full one
    temperature    scores are divided by it before the softmax. Below 1 the likely gets likelier, at 0 only the
                   likeliest is ever said; above 1 all become alike
    patterns       a loss says little to a person. So: of the numbers 0 to 49, whose successor does it know, and
                   does it end A3B3 with C3? And what does it say of numbers that it has never seen? It continues
                   the pattern of letters: it has not learned to count

A text is closed to a ring, its end followed by its beginning. Else what stands at its very end, here A3B3C3, would
never be at the beginning of a stretch, and no prompt could begin with it. Of the counting text nothing is kept
back: its last tenth is 16 of the 20 such triples, and what was learned is seen by asking.

    python -m reference.lessons.letter_gpts [--stated] [--text NAME] [--steps N]

Characters outside a text's alphabet become <UNK>, so that a prompt may have any.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reference.cli.progress import watched
from reference.config import SIZES, GPTConfig
from reference.data.batches import Batches, windows
from reference.data.corpora import load_text, split
from reference.data.shakespeare import COPY_VARIABLE
from reference.data.tokenizers import Tokenizer, build_tokenizer
from reference.functional import softmax
from reference.gpt import GPT
from reference.lessons import command, drawing
from reference.sampling import generate
from reference.training.evaluation import mean_loss
from reference.training.schedule import learning_rate
from reference.training.step import build_step


@dataclass(frozen=True)
class Course:
    """What learns a text, and how."""

    shape: GPTConfig  # with any vocabulary size: that of the text is taken
    steps: int
    rows: int  # in a batch
    peak: float  # the highest learning rate; warmed up to, and cooled down from to a tenth
    tokenizer: str = "char-unk"
    keeps_back: bool = True  # the last tenth of the text, to be judged by


# What repeats itself word for word bears a higher rate.
SMALL = GPTConfig(block_size=64, vocab_size=26, n_layer=2, n_head=4, n_embd=64, bias=False)
COURSES = {
    "counting": Course(SMALL, 480, 16, 1e-2, keeps_back=False),
    "stories": Course(SMALL, 240, 8, 8e-3),
    "code": Course(SMALL, 240, 8, 8e-3),
    "shakespeare": Course(SMALL, 240, 8, 8e-3),
}
# The shapes of the stated models, and how many batches of how many stretches they take of a text.
TEXT = GPTConfig(block_size=128, vocab_size=66, n_layer=8, n_head=8, n_embd=256, dropout=0.1, bias=False)
STATED = {
    "counting": Course(SIZES["counting"], 600, 8, 3e-3, "char", keeps_back=False),
    "stories": Course(TEXT, 300, 8, 2e-3),
    "code": Course(TEXT, 300, 8, 2e-3),
    "shakespeare": Course(TEXT, 1000, 8, 2e-3),
}
PROMPTS = {
    "counting": ["Number 15 comes before", "A5B5", "Number 100", "A50B50"],
    "stories": ["Once upon a time", "The cat", "Alice"],
    "code": ["def ", "for i in range", "if x >"],
    "shakespeare": ["ROMEO:", "To be or not to be", "Fair"],
}
TEMPERATURES = (0.1, 0.5, 1.0, 1.5)


def texts() -> list[str]:
    """The names of the texts that can be had without a download."""
    return [name for name in COURSES if name != "shakespeare" or os.environ.get(COPY_VARIABLE)]


def count_parameters(shape: GPTConfig) -> int:
    """How many numbers a model of this shape has; it is not built for that."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(shape).parameters())


def beginner(name: str, course: Course) -> tuple[GPT, Tokenizer, Tensor, Tensor]:
    """A model that has learned nothing, a text's tokenizer, what it is to learn from, and what to be judged by.

    Those are the first nine tenths and the last. If nothing is kept back, both are the whole text.
    """
    text = load_text(name)
    tokenizer = build_tokenizer(course.tokenizer, text)
    tokens = torch.tensor(tokenizer.encode(text))
    tokens, kept_back = split(tokens) if course.keeps_back else (tokens, tokens)
    torch.manual_seed(1)
    return GPT(replace(course.shape, vocab_size=tokenizer.vocab_size)), tokenizer, tokens, kept_back


def train(model: GPT, tokens: Tensor, course: Course) -> Iterator[float]:
    """Train in place on stretches of a text closed to a ring; yields the loss of each batch before its step."""
    warmup, floor = min(50, max(course.steps // 10, 1)), course.peak / 10
    total = max(course.steps, 2)
    step = build_step(model, lambda s: learning_rate(s, peak=course.peak, warmup=warmup, total=total, floor=floor))
    ring = torch.cat([tokens, tokens[: course.shape.block_size]])  # so that a stretch may begin at every letter
    batches = Batches(ring, course.shape.block_size, course.rows, seed=1)
    for s in range(course.steps):
        yield float(step(*batches.at(s)))


def learned(name: str, course: Course) -> tuple[GPT, Tokenizer, list[float]]:
    """A model after a course on a text, in eval mode, its tokenizer, and the loss of each batch."""
    model, tokenizer, tokens, _ = beginner(name, course)
    losses = list(watched(train(model, tokens, course), course.steps, f"Learning {name}"))
    return model.eval(), tokenizer, losses


def loss_on(model: GPT, tokens: Tensor) -> float:
    """Mean loss over a text, or over its first 32 stretches if it is longer."""
    T = model.config.block_size
    return mean_loss(model, windows(tokens[: 32 * T + 1], T, batch_size=32))[0]


def goes_on(model: GPT, tokenizer: Tokenizer, prompt: str, count: int, temperature: float) -> str:
    """What it says after a prompt, in so many letters."""
    ids = torch.tensor([tokenizer.encode(prompt)])
    generator = torch.Generator().manual_seed(1337)
    said = generate(model, ids, count, temperature=temperature, generator=generator)[0, ids.shape[1] :]
    return tokenizer.decode(said.tolist())


@torch.no_grad()
def next_shares(model: GPT, tokenizer: Tokenizer, prompt: str, temperature: float) -> Tensor:
    """How probable each letter is after a prompt, (V,), at a temperature above 0."""
    scores = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1]
    return softmax(scores / temperature)


def completions(model: GPT, tokenizer: Tokenizer, prompts: list[str]) -> list[str]:
    """What it says after each prompt, up to the full stop."""
    return [goes_on(model, tokenizer, prompt, 5, 0.0).partition(".")[0].strip() for prompt in prompts]


def successors(model: GPT, tokenizer: Tokenizer) -> dict[int, str]:
    """number -> what it says comes after it, of 0 to 49."""
    prompts = [f"Number {number} comes before" for number in range(50)]
    return dict(enumerate(completions(model, tokenizer, prompts)))


def triples(model: GPT, tokenizer: Tokenizer) -> dict[int, str]:
    """number -> what it says after A3B3, of 0 to 29; the text ends with 19."""
    return dict(enumerate(completions(model, tokenizer, [f"A{number}B{number}" for number in range(30)])))


def tell_patterns(model: GPT, tokenizer: Tokenizer) -> None:
    """What a model that learned the counting text knows of its patterns, in words."""
    said, thirds = successors(model, tokenizer), triples(model, tokenizer)
    right = sum(words == str(number + 1) for number, words in said.items())
    print("\nWhat comes after 7, 12 and 25, and of all the numbers from 0 to 49 so many rightly:")
    print(f"    > {', '.join(f'{n}: {said[n]!r}' for n in (7, 12, 25))}; {right} of 50 right")
    ends = [words == f"C{number}" for number, words in thirds.items()]
    print("A pattern that is rarer, A3B3C3, from 0 to 19, and so many of 20 to 29, which it has never seen:")
    print(f"    > {', '.join(f'A{n}B{n}: {thirds[n]!r}' for n in (3, 7, 15))}", end="; ")
    print(f"{sum(ends[:20])} of 20 right, {sum(ends[20:])} of 10 never seen")
    print("Other numbers that it has never seen:")
    for prompt in ("Number 100", "A50B50"):
        print(f"    > {prompt!r} {goes_on(model, tokenizer, prompt, 18, 0.0)!r}")
    print("What follows 100 it cannot know: it has never seen it, and letters are all that it learned.")


def main(folder: Path = drawing.FOLDER, steps: int | None = None, text: str | None = None) -> None:
    """Sizes, losses, completions; then temperature and patterns at the model that counts."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    print("The models as these texts were first learned with (an alphabet of 25, and of 66):")
    for name, shape in (("counting", SIZES["counting"]), ("stories, code, Shakespeare", TEXT)):
        print(f"    {name:<27} {in_words(shape)}   {count_parameters(shape):,} numbers")
    print(f"The small ones here: 2 layers, 4 heads, width 64; {count_parameters(SMALL):,}.\n")

    rows, models = [], {}
    for name in [text] if text else texts():
        course = replace(COURSES[name], steps=steps or COURSES[name].steps)
        model, tokenizer, losses = learned(name, course)
        models[name] = model, tokenizer
        first, last = sum(losses[:2]) / 2, sum(losses[-20:]) / len(losses[-20:])
        print(f"{name}: {tokenizer.vocab_size} letters, knowing nothing has loss {math.log(tokenizer.vocab_size):.2f};")
        print(f"    {first:.1f} at first, {last:.2f} after {course.steps} batches. It goes on:")
        for prompt in PROMPTS[name][:3]:
            print(f"    > {prompt!r} {goes_on(model, tokenizer, prompt, 40, 0.5)!r}")
        rows += [{"step": step, "loss": loss, "text": name} for step, loss in means(losses, 30)]
    chart = drawing.curves(rows, "step", "loss", "text", "Learning texts by letters", unit="nats per letter")
    print(drawing.told(chart, folder / "letter_gpts-loss.png", "Losses"))
    if "counting" not in models:
        return

    model, tokenizer = models["counting"]
    print("\nWarmer and warmer, after 'Number ':")
    for temperature in TEMPERATURES:
        print(f"    > {temperature}: {goes_on(model, tokenizer, 'Number ', 40, temperature)!r}")
    digits = tokenizer.encode("0123456789")
    rows = [
        {"panel": "shares of what comes next", "row": f"{temperature}", "column": digit, "share": share}
        for temperature in TEMPERATURES
        for digit, share in zip(
            "0123456789", next_shares(model, tokenizer, "Number ", temperature)[digits].tolist(), strict=True
        )
    ]
    chart = drawing.tables(rows, "After 'Number '", "row: temperature; column: a digit", size=26)
    print(drawing.told(chart, folder / "letter_gpts-temperature.png", "Temperature"))
    tell_patterns(model, tokenizer)


def full_size(name: str, folder: Path = drawing.FOLDER, steps: int | None = None) -> None:
    """Train the stated model of one text and say what it learned; as many threads as torch takes."""
    course = replace(STATED[name], steps=steps or STATED[name].steps)
    model, tokenizer, tokens, kept_back = beginner(name, course)
    judge = f"{len(kept_back):,} kept back" if course.keeps_back else "nothing kept back"
    print(f"{name}: {len(tokens):,} letters to learn from, {judge};", end=" ")
    print(f"{tokenizer.vocab_size} different ones.")
    print(f"The model: {in_words(course.shape)}, dropout {course.shape.dropout}:", end=" ")
    print(f"{count_parameters(model.config):,} numbers.")
    judged = "the tenth kept back" if course.keeps_back else "the text without dropout"
    each = max(course.steps // 10, 1)
    losses: list[float] = []
    judgements: dict[int, float] = {}
    for loss in watched(train(model, tokens, course), course.steps, f"Learning {name}"):
        losses.append(loss)
        if len(losses) % each == 0:
            judgements[len(losses)] = loss_on(model, kept_back)
    print(f"{course.steps:,} batches of {course.rows}, highest learning rate {course.peak:g}.", end=" ")
    print(f"Knowing nothing has loss {math.log(tokenizer.vocab_size):.2f};")
    print(f"means of batches, and of {judged}:")
    for done, judgement in judgements.items():
        print(f"    {done:6,}  {sum(losses[done - each : done]) / each:.2f}  {judgement:.2f}")
    model.eval()
    lines = {"batches": means(losses, 60), judged: judgements.items()}
    rows = [{"step": step, "loss": loss, "of": of} for of, points in lines.items() for step, loss in points]
    chart = drawing.curves(rows, "step", "loss", "of", f"Learning {name} at full size", unit="nats per letter")
    print("It goes on, at temperature 0.8:")
    for prompt in PROMPTS[name]:
        print(f"    > {prompt!r} {goes_on(model, tokenizer, prompt, 80, 0.8)!r}")
    if name == "counting":
        tell_patterns(model, tokenizer)
    print(drawing.told(chart, folder / f"letter_gpts-stated-{name}.png", f"Losses of {name}"))


def in_words(shape: GPTConfig) -> str:
    """A shape in words."""
    return f"{shape.n_layer} layers, {shape.n_head} heads, width {shape.n_embd}, block {shape.block_size}"


def means(losses: list[float], points: int) -> list[tuple[int, float]]:
    """About so many points of a curve: a step, and the mean loss of the batches up to it."""
    each = max(len(losses) // points, 1)
    return [(i + each, sum(losses[i : i + each]) / each) for i in range(0, len(losses) - each + 1, each)]


def run() -> None:
    """The command. Raises ValueError, one line, for a wrong option."""
    parser = command.parser("letter_gpts", __doc__)
    parser.add_argument("--stated", action="store_true", help="train at full size, many minutes for each text")
    parser.add_argument("--text", help=f"train on one text: {', '.join(COURSES)}")
    parser.add_argument("--steps", type=int, help="training steps (default: by text)")
    options = parser.parse_args()
    if options.text not in (None, *COURSES):
        raise ValueError(f"unknown text {options.text!r}: choose one of {', '.join(COURSES)}")
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps {options.steps}: give a whole number of at least 1")
    if not options.stated:
        main(steps=options.steps, text=options.text)
        return
    for name in [options.text] if options.text else texts():
        full_size(name, steps=options.steps)


if __name__ == "__main__":
    try:
        run()
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
