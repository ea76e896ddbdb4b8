"""Print the result of testing a data loader."""

from __future__ import annotations

from typing import Any

from bench.batches.audit import BATCH, BLOCK, TOKENS, WORLDS, Audit
from bench.candidate.fault import in_lines, number_of
from bench.formatting import WIDTH, Writer, as_text

DONE = {
    "seed": "the same seed gives the same batches",
    "rank": f"{' and '.join(map(str, WORLDS))} processes share an epoch",
    "start": "a stopped run goes on with the next batch",
}
OF_KIND = {
    "epochs": "each once per epoch",
    "random": "from windows that begin anywhere",
}


def text(found: Audit, width: int = WIDTH) -> str:
    """The report as plain text."""
    return as_text(lambda console: show(found, console), width)


def show(found: Audit, console: Any) -> None:
    """Print the report on a rich console."""
    writer = Writer(console)
    writer.line()
    writer.line(f"{found.name}, on a text of {TOKENS} tokens")
    writer.line(f"batches of {BATCH} x {BLOCK} tokens; {found.seen} in the first stream", style="dim")
    writer.line()
    writer.line(verdict(found), style="bold" if found.right else "bold red")
    writer.sections({"What is wrong": in_lines(found.faults), "Notes": [f"- {note}" for note in found.notes]})


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if not found.right:
        return f"Wrong batches: {number_of(found.faults)}."
    tested = [words for name, words in DONE.items() if name in found.takes]
    return f"Right batches: {'; '.join([f'every target is the next token, {OF_KIND[found.kind]}', *tested])}."
