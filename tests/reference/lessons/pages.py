"""docs/lessons/, from the lessons themselves: `python -m tests.reference.lessons.pages [NAME ...]`.

With `--stated TEXT` instead, the part of docs/lessons/letter_gpts-stated.md on this text, for which the model of full
size is trained: many minutes.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from reference.cli.progress import clock
from reference.data.shakespeare import COPY_VARIABLE

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "lessons"
AGAIN = "python -m tests.reference.lessons.pages"
ORDER = {
    "autograd": "Gradients of anything",
    "bigram": "Counting pairs, and learning them",
    "mlp": "More past than one letter, and how to begin",
    "batchnorm": "Norms that keep numbers in range",
    "manual_backprop": "Every gradient by hand",
    "wavenet": "Letters to pairs to fours",
    "attention_steps": "From an average of the past to attention",
    "bpe": "Text into tokens",
    "tiny_gpt": "A whole GPT, tiny",
    "letter_gpts": "Four texts, and how warm to speak",
}
STATED = FOLDER / "letter_gpts-stated.md"
STATED_HEAD = f"""\
# The four texts at full size

The models of [lesson 10](letter_gpts.md) as the notebook states them that these texts come from: 2,673,792 numbers for
counting, and 8 layers, 8 heads, width 256 and block 128 for the rest: 6,345,472 with Shakespeare's alphabet.

Nothing here is trained again in CI, because each text takes many minutes: what CI checks is that the words are those
that the command prints today. Each part was written by `{AGAIN} --stated TEXT`, which trains once, by
the command that stands above what it printed. Anyone can repeat it, and gets the same but for the rounding of another
machine. `--steps N` takes more batches, or fewer. Shakespeare needs a copy of the file, named by PARITYGPT_SHAKESPEARE,
or a download. What is kept back is judged by its first 32 stretches, without dropout, which the batches have.

The notebook trains on 300 batches of 8 stretches for counting, and on 1,000 of 16 for the others, always at a rate of
0.0003, and of Shakespeare on the first 50,000 letters alone. It prints no loss, so that there is none to compare with.
Here all batches are of 8, as many as stated below, and the rate is higher, warmed up and cooled down; of Shakespeare
it is the whole text."""
LAST = """\
Next: [reference/gpt.py](../../reference/gpt.py), the same model as GPT-2 has it, with nothing left out, and
[reference/functional.py](../../reference/functional.py), the five functions that it is made of. After that
[optimized/](../../optimized/gpt.py): the same function again, several times as fast, each step of the way with a name,
a measurement and a proof ([docs/parity.md](../parity.md), [docs/speed.md](../speed.md))."""


def lesson(name: str) -> Any:
    """The lesson's module."""
    return importlib.import_module(f"reference.lessons.{name}")


def told(name: str, folder: Path, **arguments: Any) -> str:
    """What a lesson prints. Its pictures go to `folder`."""
    out = io.StringIO()
    copy = os.environ.pop(COPY_VARIABLE, None)  # the page is of texts that every machine has
    try:
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            lesson(name).main(folder=folder, **arguments)
    finally:
        if copy is not None:
            os.environ[COPY_VARIABLE] = copy
    return out.getvalue().replace(folder.as_posix() + "/", "")


def page(name: str, said: str) -> str:
    """The page of a lesson that said this."""
    names = list(ORDER)
    number = names.index(name)
    text, _, usage = lesson(name).__doc__.rpartition("\n    python -m ")
    head, _, text = text.partition("\n\n")
    _, _, after = usage.partition("\n\n")
    head = re.sub(r"^Lesson [^:]*: ", "", " ".join(head.split()))
    lines = [f"    {line}".rstrip() for line in said.splitlines()]
    pictures = [f"![{what}]({file})" for what, file in re.findall(r"^(.*): (\S+\.png)$", said, re.MULTILINE)]
    if number + 1 < len(names):
        after_this = names[number + 1]
        next_one = f"Next: [{ORDER[after_this]}]({after_this}.md)"
    else:
        next_one = LAST
    before = f"[{ORDER[names[number - 1]]}]({names[number - 1]}.md)" if number else ""
    full_size = f"The same at full size: [what those models learned]({STATED.name})." if name == "letter_gpts" else ""
    parts = [
        f"# {number + 1}. {ORDER[name]}",
        head[0].upper() + head[1:],
        text.strip("\n"),
        after.strip("\n"),
        *pictures,
        f"The code: [reference/lessons/{name}.py](../../reference/lessons/{name}.py), to be read from top to bottom.\n"
        f"Its proof: [tests/reference/lessons/test_{name}.py](../../tests/reference/lessons/test_{name}.py).",
        f"    $ python -m reference.lessons.{name}\n\n" + "\n".join(lines),
        full_size,
        next_one,
        f"Before this: {before}. All: [the lessons](README.md)." if before else "All: [the lessons](README.md).",
        f"This page is written by `{AGAIN} {name}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def stated(text: str, said: str, took: str) -> str:
    """The part of the page of the full sizes on a text, from what the lesson printed."""
    lines = [f"    {line}".rstrip() for line in said.splitlines() if not line.endswith(".png")]
    pictures = [f"![{what}]({file})" for what, file in re.findall(r"^(.*): (\S+\.png)$", said, re.MULTILINE)]
    command = f"    $ python -m reference.lessons.letter_gpts --stated --text {text}\n\n"
    shown = command + "\n".join(lines).rstrip()
    return "\n\n".join([f"## {text}", *pictures, shown, f"It took {took} of one CPU core."])


def stated_parts(page: str) -> dict[str, str]:
    """The parts of that page by their texts."""
    return {part.split("\n")[0][3:]: part.rstrip() for part in re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]}


def stated_page(parts: dict[str, str]) -> str:
    """That page, with these parts."""
    texts = lesson("letter_gpts").STATED
    return "\n\n".join([STATED_HEAD, *(parts[text] for text in texts if text in parts)]) + "\n"


def write_stated(text: str) -> None:
    """Train the full size of a text, and write its part."""
    import torch

    torch.set_num_threads(1)
    out, start = io.StringIO(), time.process_time()
    with redirect_stdout(out):
        lesson("letter_gpts").full_size(text, FOLDER)
    took = clock(time.process_time() - start) + " minutes"
    said = out.getvalue().replace(FOLDER.as_posix() + "/", "")
    before = stated_parts(STATED.read_text(encoding="utf-8")) if STATED.exists() else {}
    STATED.write_text(stated_page({**before, text: stated(text, said, took)}), encoding="utf-8")
    print(STATED.relative_to(ROOT).as_posix())


def first_page() -> str:
    """The list of the lessons."""
    rows = []
    for number, (name, title) in enumerate(ORDER.items(), start=1):
        head = " ".join(lesson(name).__doc__.partition("\n\n")[0].split())
        head = re.sub(r"^Lesson [^:]*: ", "", head)
        rows.append(f"{number}. [{title}]({name}.md): {head}")
    start = next(iter(ORDER))
    return f"""\
# The road to GPT

Ten lessons, from a single number that knows its slope to a GPT. Each is one file of Python that can be read in ten
minutes, runs by itself in less than a minute on two cores, prints what happens, and draws it. Each has its tests, in
which the part of PyTorch that it explains, or the library, gives the same numbers. No GPU, no download.

    pip install nox && nox -s environment && source .nox/environment/bin/activate
    python -m reference.lessons.{start}

{chr(10).join(rows)}

{LAST}

Begin: [{ORDER[start]}]({start}.md)

These pages are written by `{AGAIN}`, from what the lessons print.
"""


def main(names: list[str]) -> None:
    """Write the pages of these lessons, or all."""
    import torch

    torch.set_num_threads(1)
    for name in names or ORDER:
        with tempfile.TemporaryDirectory() as folder:
            said = told(name, Path(folder))
            for picture in Path(folder).glob("*.png"):
                (FOLDER / picture.name).write_bytes(picture.read_bytes())
        (FOLDER / f"{name}.md").write_text(page(name, said), encoding="utf-8")
        print(f"docs/lessons/{name}.md")
    (FOLDER / "README.md").write_text(first_page(), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stated"]:
        write_stated(*sys.argv[2:])
    else:
        main(sys.argv[1:])
