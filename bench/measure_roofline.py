"""`python -m bench roofline`: measure a device, print what it can do and what that allows at best."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.compare import threads
from bench.environment import clocks_after_work, environment, identity_in_words
from bench.formatting import Fitted
from bench.progress import Progress
from bench.results import write
from bench.roofline import SQUARE, Roofline, floors, precisions_of
from bench.settings import MeasureRoofline
from bench.suite import EVERY_SITTING, SITTINGS, WORKLOADS, named, rows_of, tokens_of
from bench.tables import milliseconds, per_second, plain_table, significant, size, terminal
from reference.devices import choose_device

DIRECTIONS = ("forward", "input", "weight")  # of a product, in the order of their columns
USUAL = ("mini", "gpt2-128", "gpt2")


def measure_roofline(options: MeasureRoofline) -> int:
    """Run the command. Raises ValueError, one line, for what the user cannot have."""
    options.check()
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ValueError(f"unknown workload {name!r}: give some of {', '.join(WORKLOADS)}")
    device = choose_device(options.device)
    names = list(dict.fromkeys(options.workloads or USUAL))
    with threads(options.threads):
        surroundings = environment(device)
        roofline = Roofline(device, options.seconds)
        with Progress((1 + len(names)) * len(precisions_of(device))) as progress:
            found = list(floors(roofline, names, {name: SITTINGS[name] for name in EVERY_SITTING}, progress.stage))
        surroundings["clocks"] = clocks_after_work(surroundings["clocks"], device)
    result = {"environment": surroundings, "roofline": {**roofline.record(), "floors": found}}
    show(result)
    if options.json is not None:
        arguments = {**dataclasses.asdict(options), "json": str(options.json), "workloads": names}
        write(options.json, {"kind": "roofline", "version": 2, "arguments": arguments, **result})
    return 0


def show(result: dict[str, Any]) -> None:
    """Print the ceilings of a device, then the floors."""
    console = terminal()
    where, roofline = result["environment"], result["roofline"]
    of = f" of {where['cores']['logical']} cores" if where["device_kind"] == "cpu" else ""
    console.print()
    console.print(f"{identity_in_words(where['identity'])}{of}; torch {where['packages']['torch']}", markup=False)
    console.print()
    console.print("What can this device do at most?", style="bold")
    console.print(Fitted(ceilings_table(roofline)))
    console.print(
        "measured: the best of all shapes below, the large square among them; data sheet: n/a if not known.",
        style="dim",
    )
    console.print()
    console.print("How fast does it multiply matrices of these models' own shapes? GFLOP/s", style="bold")
    console.print(Fitted(rates_table(roofline["rates"]), keys=2, together=[3] * len(roofline["ceilings"])))
    console.print("rows x inner x columns; the backward pass has one product for each factor.", style="dim")
    console.print()
    console.print("What does each task take at least?", style="bold")
    console.print(Fitted(floors_table(roofline["floors"]), keys=2, together=(2, 2)))
    console.print(
        "at best: the longer of both, AdamW's bytes after that; what counts: the head of bench/roofline.py.",
        style="dim",
    )
    console.print()


def ceilings_table(roofline: dict[str, Any]) -> Any:
    """Operations by precision, and bytes."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    for name in ("measured", "data sheet"):
        table.add_column(name, justify="right", no_wrap=True)
    for precision, ceiling in roofline["ceilings"].items():
        table.add_row(f"{precision} products", *(per_second(ceiling[of], "FLOP") for of in ("measured", "data_sheet")))
        for rate in roofline["rates"]:
            if rate["product"]["name"] == SQUARE and rate["precision"] == precision:
                rows = rate["product"]["rows"]
                table.add_row(f"  {SQUARE} of {rows:,}", per_second(rate["flops_per_second"], "FLOP"), "", style="dim")
    bandwidth = roofline["bandwidth"]
    table.add_row("memory", *(per_second(bandwidth[of], "B") for of in ("measured", "data_sheet")))
    for block in roofline["bandwidths"]:
        copy, read = per_second(block["copy"], "B"), per_second(block["read"], "B")
        table.add_row(f"  block of {size(block['block'])}", f"copy {copy}, read {read}", "", style="dim")
    return table


def rates_table(rates: list[dict[str, Any]]) -> Any:
    """A row for each shape, a column for each precision and direction."""
    shapes: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    columns: dict[tuple[str, str], None] = {}
    for rate in rates:
        product = rate["product"]
        shape = f"{product['rows']} x {product['inner']} x {product['columns']}"
        column = (rate["precision"], rate["direction"])
        columns.setdefault(column)
        shapes.setdefault((product["name"], shape), {})[column] = rate["flops_per_second"]
    table = plain_table()
    table.add_column("\nproduct", no_wrap=True)
    table.add_column("\nshape", justify="right", no_wrap=True)
    # measured in another order: first the square in every precision
    precisions = list(dict.fromkeys(precision for precision, _ in columns))
    ordered = sorted(columns, key=lambda column: (precisions.index(column[0]), DIRECTIONS.index(column[1])))
    for precision, direction in ordered:
        table.add_column(f"{precision}\n{direction}", justify="right", no_wrap=True)
    for (name, shape), found in shapes.items():
        cells = [f"{found[c] / 1e9:,.0f}" if c in found else "" for c in ordered]
        table.add_row(name, shape, *cells)
    return table


def floors_table(found: list[dict[str, Any]]) -> Any:
    """What each task takes at least."""
    table = plain_table()
    table.add_column("task", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for name in ("operations", "for them", "bytes", "for them", "at best", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for floor in found:
        work = named(floor["workload"])
        tokens = tokens_of(work, floor["sitting"], floor["task"])
        table.add_row(
            f"{floor['workload']}/{floor['task']}{beside(floor)}",
            floor["precision"],
            f"{floor['operations'] / 1e9:,.3g} G",
            milliseconds(floor["seconds_of_operations"]),
            size(floor["bytes"]),
            milliseconds(floor["seconds_of_bytes"]),
            milliseconds(floor["seconds"]),
            significant(tokens / floor["seconds"]),
        )
    return table


def beside(floor: dict[str, Any]) -> str:
    """How many texts are generated side by side, where it is text."""
    work = named(floor["workload"])
    return f" x {rows_of(work, floor['sitting'], floor['task'])}" if floor["sitting"] in ("text", "texts") else ""
