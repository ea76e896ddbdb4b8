"""Lesson 10: the same on letters, with the model of reference/gpt.py, and how warm it should speak.

From here on the model is no longer the lesson's own: `GPT` is the readable GPT-2 of this project, trained by its
own step. It learns four texts, letter by letter: counting ("Number 7 comes before 8. "), very short stories,
very short programs, and Shakespeare where PARITYGPT_SHAKESPEARE names a copy of the file.

    shape          the models that these texts were first learned with have 2.7 and 6.4 million numbers and take
                   many minutes. Here it is a far smaller one, in seconds; --stated takes the full one
    temperature    scores are divided by it before the softmax. Below 1 the likely gets likelier, at 0 only the
                   likeliest is ever said; above 1 all become alike
    patterns       a loss says little to a person. So: of the numbers 0 to 49, whose successor does it know? And
                   what does it say of numbers that it has never seen? It continues the pattern of letters: it
                   has not learned to count

    python -m reference.lessons.letter_gpts [--stated]

Characters outside a text's alphabet become <UNK>, so that a prompt may have any.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reference.batches import Batches
from reference.config import SIZES, GPTConfig
from reference.corpora import load_text, split
from reference.functional import softmax
from reference.gpt import GPT
from reference.lessons import drawing
from reference.sampling import generate
from reference.schedule import learning_rate
from reference.shakespeare import COPY_VARIABLE
from reference.step import build_step
from reference.tokenizers import Tokenizer, build_tokenizer

# The shapes of the stated models, and what each is asked to go on with.
TEXT = GPTConfig(block_size=128, vocab_size=66, n_layer=8, n_head=8, n_embd=256, dropout=0.1, bias=False)
STATED = {"counting": SIZES["counting"], "stories": TEXT, "code": TEXT, "shakespeare": TEXT}
SMALL = GPTConfig(block_size=64, vocab_size=26, n_layer=2, n_head=4, n_embd=64, bias=False)
PROMPTS = {
    "counting": ["Number 15 comes before", "A5B5", "Number 100", "A50B50"],
    "stories": ["Once upon a time", "The cat", "Alice"],
    "code": ["def ", "for i in range", "if x >"],
    "shakespeare": ["ROMEO:", "To be or not to be", "Fair"],
}
# Highest learning rates of the small models: what repeats itself word for word bears more.
PEAKS = {"counting": 2e-2, "stories": 8e-3, "code": 8e-3, "shakespeare": 8e-3}
TEMPERATURES = (0.1, 0.5, 1.0, 1.5)


def texts() -> list[str]:
    """The names of the texts that can be had without a download."""
    return [name for name in STATED if name != "shakespeare" or os.environ.get(COPY_VARIABLE)]


def count_parameters(shape: GPTConfig) -> int:
    """How many numbers a model of this shape has; it is not built for that."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(shape).parameters())


def learned(name: str, shape: GPTConfig, steps: int, peak: float) -> tuple[GPT, Tokenizer, list[float]]:
    """A model of this shape after so many batches of 8 of a text, its tokenizer, and the loss of each batch.

    Args:
        name: the text; its last tenth is kept back
        shape: with any vocabulary size: that of the text is taken
        peak: the highest learning rate; it is warmed up to, and cooled down from to a tenth
    """
    text = load_text(name)
    tokenizer = build_tokenizer("char-unk", text)
    tokens, _ = split(torch.tensor(tokenizer.encode(text)))
    torch.manual_seed(1)
    model = GPT(replace(shape, vocab_size=tokenizer.vocab_size))
    warmup = min(50, max(steps // 10, 1))
    step = build_step(model, lambda s: learning_rate(s, peak=peak, warmup=warmup, total=max(steps, 2), floor=peak / 10))
    batches = Batches(tokens, shape.block_size, batch_size=8, seed=1)
    losses = [float(step(*batches.at(s))) for s in range(steps)]
    return model.eval(), tokenizer, losses


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


def successors(model: GPT, tokenizer: Tokenizer) -> dict[int, str]:
    """number -> what it says comes after it, up to the full stop."""
    prompts = {number: f"Number {number} comes before" for number in range(50)}
    return {n: goes_on(model, tokenizer, p, 5, 0.0).partition(".")[0].strip() for n, p in prompts.items()}


def main(folder: Path = drawing.FOLDER, steps: int = 240, stated: bool = False) -> None:
    """Sizes, losses, completions; then temperature and patterns at the model that counts."""
    torch.set_num_threads(os.cpu_count() or 1 if stated else 1)
    print("The models as these texts were first learned with (an alphabet of 25, and of 66):")
    for name, shape in (("counting", STATED["counting"]), ("stories, code, Shakespeare", TEXT)):
        size = f"{shape.n_layer} layers, {shape.n_head} heads, width {shape.n_embd}, block {shape.block_size}"
        print(f"    {name:<27} {size}   {count_parameters(shape):,} numbers")
    print(f"The small ones here: 2 layers, 4 heads, width 64; {count_parameters(SMALL):,}.\n")

    rows, models = [], {}
    for name in texts():
        shape = STATED[name] if stated else SMALL
        batches = steps * 2 if name == "counting" else steps
        model, tokenizer, losses = learned(name, shape, batches, peak=3e-3 if stated else PEAKS[name])
        models[name] = model, tokenizer
        first, last = sum(losses[:2]) / 2, sum(losses[-20:]) / len(losses[-20:])
        print(f"{name}: {tokenizer.vocab_size} letters, knowing nothing has loss {math.log(tokenizer.vocab_size):.2f};")
        print(f"    {first:.1f} at first, {last:.2f} after {batches} batches. It goes on:")
        for prompt in PROMPTS[name][:3]:
            print(f"    > {prompt!r} {goes_on(model, tokenizer, prompt, 40, 0.5)!r}")
        each = max(batches // 30, 1)
        rows += [
            {"step": i + each, "loss": sum(losses[i : i + each]) / each, "text": name}
            for i in range(0, batches - each + 1, each)
        ]
    chart = drawing.curves(rows, "step", "loss", "text", "Learning texts by letters")
    print(drawing.told(chart, folder / "letter_gpts-loss.png", "Losses"))

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

    said = successors(model, tokenizer)
    right = [number for number, words in said.items() if words == str(number + 1)]
    print("\nWhat comes after 7, 12 and 25, and of all the numbers from 0 to 49 so many rightly:")
    print(f"    > {', '.join(f'{n}: {said[n]!r}' for n in (7, 12, 25))}; {len(right)} of 50 right")
    print("A pattern that was rarer, A3B3C3, and numbers that it has never seen:")
    for prompt in ("A3B3", "A7B7", "Number 100", "A50B50"):
        print(f"    > {prompt!r} {goes_on(model, tokenizer, prompt, 18, 0.0)!r}")
    print("What follows 100 it cannot know: it has never seen it, and letters are all that it learned.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m reference.lessons.letter_gpts")
    parser.add_argument("--stated", action="store_true", help="the full sizes: many minutes")
    try:
        main(stated=parser.parse_args().stated)
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
