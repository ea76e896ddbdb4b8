"""`python -m bench roofline`: measure a device, print what it can do and what that allows at best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.environment import clocks_after_work, environment, identity_in_words, threads
from bench.formatting import Fitted, milliseconds, per_second, plain_table, significant, size, terminal
from bench.journal import Journal, Measure, check_same, partial_path, resume, write
from bench.roofline.roofline import SQUARE, Bandwidth, Roofline, floors, precisions_of, with_floors
from bench.settings import MeasureRoofline
from bench.workloads.scenarios import EVERY_SITTING, SITTINGS, WORKLOADS, named, rows_of, tokens_of
from reference.cli import interrupts
from reference.cli.progress import Stages
from reference.training.devices import choose_device

DIRECTIONS = ("forward", "input", "weight")  # of a product, in the order of their columns
USUAL = ("mini", "gpt2-128", "gpt2")
KIND = "roofline"
HOME = Path("runs", "roofline")  # in the current directory: what a run that was stopped leaves, if there is no --json

CALLS = 5  # at least, for one measurement: one to allocate, one to get warm, three samples
FLOPS_PER_SECOND, BYTES_PER_SECOND = 1e10, 5e9  # of some device, until the rates of this one are known


def measure_roofline(options: MeasureRoofline, command: str) -> int:
    """Run the command, by what the user typed for it. Raises ValueError, one line, for what the user cannot have."""
    options.check()
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ValueError(f"unknown workload {name!r}: give some of {', '.join(WORKLOADS)}")
    device = choose_device(options.device)
    names = list(dict.fromkeys(options.workloads or USUAL))
    sittings = {name: SITTINGS[name] for name in EVERY_SITTING}
    with threads(options.threads):
        run_environment = environment(device)
        journal = journal_of(options, run_environment, command)
        stages = len(precisions_of(device)) + len(names) * len(with_floors(device))
        with Stages(stages) as progress, interrupts.last_words(lambda: journal.words):
            left = TimeLeft(planned(device, names, sittings), options.seconds)
            stage = ""

            def begin(what: str) -> None:
                nonlocal stage
                stage = what
                progress.stage(what, left.seconds())

            def keep(what: str, key: Any, measure: Measure) -> Any:
                found = journal.once(what, key, lambda: left.timed(what, key, measure))
                left.learn(what, key, found)
                progress.within(stage, left.seconds())
                return found

            roofline = Roofline(device, options.seconds, keep=keep)
            found = list(floors(roofline, names, sittings, begin))
        run_environment["clocks"] = clocks_after_work(run_environment["clocks"], device)
    result = {"environment": run_environment, "roofline": {**roofline.record(), "floors": found}}
    show(result)
    if options.json is not None:
        arguments = {**saved_arguments(options), "workloads": names}
        write(options.json, {"kind": KIND, "version": 2, "arguments": arguments, "resumed": journal.resumed, **result})
    journal.remove()
    return 0


def journal_of(options: MeasureRoofline, run_environment: dict[str, Any], command: str) -> Journal:
    """What is measured is kept here: in a new file, or in that of a run that was stopped."""
    if options.resume is None:
        usual = HOME / f"{datetime.now():%Y%m%d-%H%M%S}"
        return Journal(partial_path(options.json or usual), KIND, command, run_environment, saved_arguments(options))
    journal = resume(options.resume, KIND, command)
    saved = MeasureRoofline.from_json(journal.arguments)
    for field in dataclasses.fields(options):
        before, now = getattr(saved, field.name), getattr(options, field.name)
        if before != now and field.name not in ("resume", "json"):
            raise ValueError(
                f"--resume {options.resume} with --{field.name} {worded(now)}: it was begun with {worded(before)}; "
                f"leave --{field.name} out, or start anew without --resume"
            )
    check_same(journal, run_environment)
    journal.go_on()
    return journal


def worded(value: Any) -> str:
    """An option's value as the user would type it."""
    if value is None or value == ():
        return "no such option"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def saved_arguments(options: MeasureRoofline) -> dict[str, Any]:
    """The options as plain values, less that which tells where to go on."""
    values = {**dataclasses.asdict(options), "json": None if options.json is None else str(options.json)}
    return {name: value for name, value in values.items() if name != "resume"}


def planned(device: Any, names: list[str], sittings: dict[str, tuple[str, ...]]) -> list[tuple[str, Any]]:
    """What will be measured, in its order: as `bench.journal.Keep` is told of it."""
    found: list[tuple[str, Any]] = []

    def note(what: str, key: Any, measure: Measure) -> Any:
        found.append((what, key))
        return dataclasses.asdict(Bandwidth(key, 1.0, 1.0)) if what == "bandwidth" else 1.0

    list(floors(Roofline(device, keep=note), names, sittings, lambda what: None))
    return found


class TimeLeft:
    """How long the measurements that are planned will still take.

    A product takes as long as was asked for, or a few calls at the rate that the square, which comes first, was seen to
    have in its precision; all is then scaled by how long the measurements so far really took.

    Args:
        planned: of `planned`
        seconds: to measure each in, about
        clock: seconds from any zero
    """

    def __init__(
        self, planned: list[tuple[str, Any]], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.planned, self.each, self.clock = list(planned), seconds, clock
        self.rates: dict[str, float] = {}  # operations per second, by precision: the highest
        self.expected = self.taken = 0.0  # of those that are done

    def timed(self, what: str, key: Any, measure: Measure) -> Any:
        """Measure, and note how long it took."""
        start = self.clock()
        found = measure()
        self.taken += self.clock() - start
        self.learn_rate(what, key, found)
        self.expected += self.cost(what, key)
        return found

    def learn(self, what: str, key: Any, found: Any) -> None:
        """Note what was found, now or by a run that was stopped."""
        self.learn_rate(what, key, found)
        self.planned.remove((what, key))

    def learn_rate(self, what: str, key: Any, found: Any) -> None:
        """Of products in a precision, the highest counts."""
        if what == "rate":
            self.rates[key[0]] = max(found, self.rates.get(key[0], 0.0))

    def seconds(self) -> float | None:
        """How long the rest will take; None before anything was measured."""
        if self.expected == 0.0:
            return None
        return sum(self.cost(*one) for one in self.planned) * self.taken / self.expected

    def cost(self, what: str, key: Any) -> float:
        """How long a measurement takes, about: at least `CALLS` calls."""
        if what == "bandwidth":
            return 2 * max(self.each, CALLS * key / BYTES_PER_SECOND)
        precision, rows, inner, columns, _ = key
        rate = self.rates.get(precision, max(self.rates.values(), default=FLOPS_PER_SECOND))
        call = 2 * rows * inner * columns / rate
        return max(self.each, CALLS * call)


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
    for precision in roofline["emulated"]:
        console.print(
            f"{precision} is emulated on this device, which has no instructions for it: a small square, no floors.",
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
        "at best: the longer of both, AdamW's bytes after that; what counts: the head of bench/roofline/roofline.py.",
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
        words = f"{precision} products" + (", emulated" if precision in roofline["emulated"] else "")
        table.add_row(words, *(per_second(ceiling[of], "FLOP") for of in ("measured", "data_sheet")))
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
