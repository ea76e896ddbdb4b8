"""The report on two checkpoints: a verdict, the tensors that differ and what they look like, the logits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from bench.formatting import Fitted, Writer, plain_table, scientific
from bench.weights.compare_logits import LogitsComparison
from bench.weights.compare_tensors import Comparison
from bench.weights.side import Side

MOST = 16  # rows of the table; all are in --json


@dataclass
class Result:
    """Everything found about two checkpoints.

    Args:
        logits: None if they were not compared
        notes: of the reader
    """

    a: Side
    b: Side
    tensors: Comparison
    logits: LogitsComparison | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def heads_differ(self) -> bool:
        """Whether both files say their number of heads, and differ."""
        return self.a.heads_known and self.b.heads_known and self.a.config.n_head != self.b.config.n_head

    @property
    def different(self) -> bool:
        """Whether any weight differs, or the number of heads."""
        return bool(self.tensors.different or self.tensors.only or self.heads_differ)

    @property
    def status(self) -> int:
        """0 the same, 1 different, 2 not judged: the weights are the same, but a config is of another function."""
        return 1 if self.different else 2 if self.a.unlike != self.b.unlike else 0


def show(result: Result, console: Any) -> None:
    """Print the report."""
    writer = Writer(console)
    writer.line()
    for side in (result.a, result.b):
        writer.line(describe(side), style="dim")
    writer.line()
    writer.line(verdict(result), style="bold" if result.status == 0 else "bold red")
    if result.tensors.different:
        writer.line()
        console.print(Fitted(table(result)))
        if (more := len(result.tensors.different) - MOST) > 0:
            writer.line(f"and {more} more; --json FILE has all", style="dim")
    writer.sections(
        {
            "Only on one side": result.tensors.only,
            "Logits": logits(result.logits),
            "Notes": [f"- {note}" for note in (*result.tensors.notes, *result.notes)],
        }
    )


def describe(side: Side) -> str:
    """A checkpoint in one line."""
    c = side.config
    heads = f"{c.n_head} heads" if side.heads_known else "heads unknown"
    kind = str(side.dtype).removeprefix("torch.")
    return (
        f"{side.letter}  {side.file.name}: {side.file.kind}, layout {side.layout.description}; {c.n_layer} layers, "
        f"{heads}, width {c.n_embd}, vocabulary {c.vocab_size}, block {c.block_size}, {kind}"
    )


def verdict(result: Result) -> str:
    """The result in one sentence."""
    count, different = len(result.tensors.rows), result.tensors.different
    if different:
        finite = [row for row in different if math.isfinite(row.error)]
        worst = max(finite, key=lambda row: row.error, default=None)
        far = "" if worst is None else f"; the furthest, {worst.name}, by {scientific(worst.error)}"
        alike = {row.looks for row in different}
        rounded = len(alike) == 1 and "rounded to" in next(iter(alike))
        only = f", only by rounding: {next(iter(alike))}" if rounded else ""
        return f"Different: {len(different)} of {count} tensors differ{far}{only}."
    if result.tensors.only:
        return f"Different: the {count} tensors of a GPT-2 are equal, but one side has more."
    if result.heads_differ:
        heads = f"A has {result.a.config.n_head} heads, B {result.b.config.n_head}"
        return f"Different: all {count} tensors are equal, but {heads}."
    if result.status == 2:
        side = result.a if result.a.unlike is not None else result.b
        why = f"{side.letter}'s config is of another function: {side.unlike}"
        return f"Not judged: all {count} tensors are equal, but {why}."
    return f"The same weights: all {count} tensors are equal, to the last bit."


def table(result: Result) -> Any:
    """A row for each tensor that differs."""
    found = plain_table()
    found.add_column("tensor", no_wrap=True)
    found.add_column("error", justify="right", no_wrap=True)
    found.add_column("largest", justify="right", no_wrap=True)
    found.add_column("looks like", no_wrap=True)
    for row in result.tensors.different[:MOST]:
        found.add_row(row.name, number(row.error), number(row.largest), row.looks)
    return found


def number(value: float) -> str:
    """An error as a table cell; nothing where there is no tensor to subtract."""
    return scientific(value) if math.isfinite(value) else "-"


def logits(found: LogitsComparison | None) -> list[str]:
    """The lines on logits."""
    if found is None:
        return []
    return [
        f"{found.text}: largest difference {scientific(found.largest)}, error {scientific(found.error)}, KL "
        f"{scientific(found.kl)} nats, the same first token at {100 * found.top1:.4g} % of positions"
    ]


def to_json(result: Result) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "kind": "weights",
        "same": result.status == 0,
        "status": result.status,
        "verdict": verdict(result),
        **{
            letter: {
                "name": side.file.name,
                "kind": side.file.kind,
                "layout": side.layout.description,
                "config": dataclasses.asdict(side.config),
                "heads_known": side.heads_known,
                "unlike": side.unlike,
                "names": {name: side.own_name(name) for name in side.names},
            }
            for letter, side in (("a", result.a), ("b", result.b))
        },
        "tensors": [finite(dataclasses.asdict(row)) for row in result.tensors.rows],
        "only": result.tensors.only,
        "logits": None if result.logits is None else finite(dataclasses.asdict(result.logits)),
        "notes": [*result.tensors.notes, *result.notes],
    }


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """None for infinite numbers, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
