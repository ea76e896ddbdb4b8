"""The largest error of each quantity over all shapes, lengths and attentions: `python -m tests.parity.table`.

The same comparisons as test_parity_huggingface.py judges, shown instead of judged.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.contenders.torch_step import build_library_step
from bench.numerics.budgets import BUDGETS
from bench.numerics.inputs import random_batch
from bench.parity import Measurement, compare
from reference.cli.interrupts import end_at_once
from tests.parity.shapes import LENGTHS, SHAPES
from tests.parity.test_parity_huggingface import pair

CASES = [(shape, T, attention) for shape in SHAPES for T in LENGTHS for attention in ("eager", "sdpa")]


def main() -> None:
    """Compare every case in both precisions and print the worst of each quantity, with where it was."""
    torch.set_num_threads(1)
    worst: dict[tuple[str, str], tuple[Measurement, str]] = {}
    for precision in BUDGETS:
        for shape, T, attention in track(CASES, f"comparing in {precision}", console=Console(stderr=True)):
            ours, theirs = pair(SHAPES[shape], attention, precision, seed=T)
            ids, targets = random_batch(SHAPES[shape], 3, T, seed=T)
            report = compare(ours, theirs, ids, targets, oracle_build=build_library_step)
            for quantity in ("logits", "loss", "gradient", "trajectory", "update"):
                found = report.worst(quantity)
                known = worst.get((precision, quantity))
                if known is None or found.error > known[0].error:
                    worst[precision, quantity] = (found, f"{found.name}, {shape}, T = {T}, {attention}")
    table = Table("precision", "quantity", "largest error", "allowed", "error / budget", "where")
    for (precision, quantity), (found, where) in worst.items():
        allowed = BUDGETS[precision].of(quantity)
        judged = ("-", "-") if allowed is None else (f"{allowed:.0e}", f"{found.error / allowed:.3f}")
        table.add_row(precision, quantity, f"{found.error:.1e}", *judged, where)
    Console(width=120).print(table)


if __name__ == "__main__":
    end_at_once()
    main()
