"""The result of testing a data loader."""

from __future__ import annotations

from bench.batches.audit import BATCH, BLOCK, TOKENS, WORLDS, Audit
from bench.user_code.fault import in_lines, number_of
from bench.user_code.report import Report

DONE = {
    "seed": "the same seed gives the same batches",
    "rank": f"{' and '.join(map(str, WORLDS))} processes share an epoch",
    "start": "a resumed run continues with the next batch",
}
OF_KIND = {
    "epochs": "each once per epoch",
    "random": "from windows that begin anywhere",
}


def report(found: Audit) -> Report:
    """The report of an audit."""
    return Report(
        found.name,
        f"on a text of {TOKENS} tokens",
        f"batches of {BATCH} x {BLOCK} tokens; {found.seen} in the first stream",
        verdict(found),
        found.right,
        lambda width: {"What is wrong": in_lines(found.faults)},
        notes=found.notes,
    )


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if not found.right:
        return f"Wrong batches: {number_of(found.faults)}."
    tested = [words for name, words in DONE.items() if name in found.takes]
    return f"Right batches: {'; '.join([f'every target is the next token, {OF_KIND[found.kind]}', *tested])}."
