"""`python -m bench roofline`: measure a device; print its rates and the floor of each task."""

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
from bench.workloads.scenarios import EVERY_SCENARIO, SCENARIOS, WORKLOADS, named, rows_of, tokens_of
from reference.cli import interrupts
from reference.cli.progress import Stages
from reference.training.devices import choose_device

DIRECTIONS = ("forward", "input", "weight")  # of a product, in the order of their columns
USUAL = ("mini", "gpt2-128", "gpt2")
KIND = "roofline"
HOME = Path("runs", "roofline")  # of the journal of a run without --json, in the current folder

CALLS = 5  # the fewest calls of a measurement: one allocates, one warms up, three samples
FLOPS_PER_SECOND, BYTES_PER_SECOND = 1e10, 5e9  # assumed for the time left, until rates are measured


def measure_roofline(options: MeasureRoofline, command: str) -> int:
    """Run the command. Raises ValueError, one line, for invalid options.

    Args:
        command: the command line that continues a stopped run, without --resume
    """
    options.check()
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ValueError(f"unknown workload {name!r}: give some of {', '.join(WORKLOADS)}")
    device = choose_device(options.device)
    names = list(dict.fromkeys(options.workloads or USUAL))
    scenarios = {name: SCENARIOS[name] for name in EVERY_SCENARIO}
    with threads(options.threads):
        run_environment = environment(device)
        journal = journal_of(options, run_environment, command)
        stages = len(precisions_of(device)) + len(names) * len(with_floors(device))
        with Stages(stages) as progress, interrupts.last_words(lambda: journal.words):
            left = TimeLeft(planned(device, names, scenarios), options.seconds)
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
            found = list(floors(roofline, names, scenarios, begin))
        run_environment["clocks"] = clocks_after_work(run_environment["clocks"], device)
    result = {"environment": run_environment, "roofline": {**roofline.record(), "floors": found}}
    show(result)
    if options.json is not None:
        arguments = {**saved_arguments(options), "workloads": names}
        write(options.json, {"kind": KIND, "version": 3, "arguments": arguments, "resumed": journal.resumed, **result})
    journal.remove()
    return 0


def journal_of(options: MeasureRoofline, run_environment: dict[str, Any], command: str) -> Journal:
    """The journal: a new one, or that of a stopped run."""
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
                f"leave --{field.name} out, or start again without --resume"
            )
    check_same(journal, run_environment)
    journal.go_on()
    return journal


def worded(value: Any) -> str:
    """An option's value as typed on the command line."""
    if value is None or value == ():
        return "no such option"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def saved_arguments(options: MeasureRoofline) -> dict[str, Any]:
    """The options as plain values, without --resume."""
    values = {**dataclasses.asdict(options), "json": None if options.json is None else str(options.json)}
    return {name: value for name, value in values.items() if name != "resume"}


def planned(device: Any, names: list[str], scenarios: dict[str, tuple[str, ...]]) -> list[tuple[str, Any]]:
    """All measurements in order: kind and key, as in `bench.journal.Keep`."""
    found: list[tuple[str, Any]] = []

    def note(what: str, key: Any, measure: Measure) -> Any:
        found.append((what, key))
        return dataclasses.asdict(Bandwidth(key, 1.0, 1.0)) if what == "bandwidth" else 1.0

    list(floors(Roofline(device, keep=note), names, scenarios, lambda what: None))
    return found


class TimeLeft:
    """Estimates the seconds that the planned measurements still take.

    A product takes the requested seconds, or a few calls at the rate of the square product in its precision, which is
    measured first. The sum is scaled by the ratio of real to estimated time so far.

    Args:
        planned: result of `planned`
        seconds: per measurement, about
        clock: seconds from any zero
    """

    def __init__(
        self, planned: list[tuple[str, Any]], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.planned, self.each, self.clock = list(planned), seconds, clock
        self.rates: dict[str, float] = {}  # operations per second, by precision: the highest
        self.expected = self.taken = 0.0  # of finished measurements

    def timed(self, what: str, key: Any, measure: Measure) -> Any:
        """Measure, and note the time."""
        start = self.clock()
        found = measure()
        self.taken += self.clock() - start
        self.learn_rate(what, key, found)
        self.expected += self.cost(what, key)
        return found

    def learn(self, what: str, key: Any, found: Any) -> None:
        """Note a finished measurement, of this run or a stopped one."""
        self.learn_rate(what, key, found)
        self.planned.remove((what, key))

    def learn_rate(self, what: str, key: Any, found: Any) -> None:
        """Keep the highest rate of each precision."""
        if what == "rate":
            self.rates[key[0]] = max(found, self.rates.get(key[0], 0.0))

    def seconds(self) -> float | None:
        """Seconds left; None before the first measurement."""
        if self.expected == 0.0:
            return None
        return sum(self.cost(*one) for one in self.planned) * self.taken / self.expected

    def cost(self, what: str, key: Any) -> float:
        """Estimated seconds of a measurement: at least `CALLS` calls."""
        if what == "bandwidth":
            return 2 * max(self.each, CALLS * key / BYTES_PER_SECOND)
        precision, rows, inner, columns, _ = key
        rate = self.rates.get(precision, max(self.rates.values(), default=FLOPS_PER_SECOND))
        call = 2 * rows * inner * columns / rate
        return max(self.each, CALLS * call)


def show(result: dict[str, Any]) -> None:
    """Print the rates of a device, then the floors."""
    console = terminal()
    where, roofline = result["environment"], result["roofline"]
    of = f" of {where['cores']['logical']} cores" if where["device_kind"] == "cpu" else ""
    console.print()
    console.print(f"{identity_in_words(where['identity'])}{of}; torch {where['packages']['torch']}", markup=False)
    console.print()
    console.print("Ceilings of this device", style="bold")
    console.print(Fitted(ceilings_table(roofline)))
    console.print(
        "measured: the best rate of all shapes below, including the large square; data sheet: n/a if unknown.",
        style="dim",
    )
    for precision in roofline["emulated"]:
        console.print(
            f"{precision} is emulated, as this device has no instructions for it: a small square, no floors.",
            style="dim",
        )
    console.print()
    console.print("Matrix products in the models' shapes, GFLOP/s", style="bold")
    console.print(Fitted(rates_table(roofline["rates"]), keys=2, together=[3] * len(roofline["ceilings"])))
    console.print(
        "rows x inner x columns; the backward pass has one product for the input and one for the weight.", style="dim"
    )
    console.print()
    console.print("Floor of each task", style="bold")
    console.print(Fitted(floors_table(roofline["floors"]), keys=2, together=(2, 2)))
    console.print(
        "floor: the longer of FLOPs and bytes, plus AdamW's bytes; see the head of bench/roofline/roofline.py.",
        style="dim",
    )
    console.print()


def ceilings_table(roofline: dict[str, Any]) -> Any:
    """Ceilings of FLOP/s by precision, and of bytes/s."""
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
    # sorted, as the square is measured first in every precision
    precisions = list(dict.fromkeys(precision for precision, _ in columns))
    ordered = sorted(columns, key=lambda column: (precisions.index(column[0]), DIRECTIONS.index(column[1])))
    for precision, direction in ordered:
        table.add_column(f"{precision}\n{direction}", justify="right", no_wrap=True)
    for (name, shape), found in shapes.items():
        cells = [f"{found[c] / 1e9:,.0f}" if c in found else "" for c in ordered]
        table.add_row(name, shape, *cells)
    return table


def floors_table(found: list[dict[str, Any]]) -> Any:
    """A row for each task."""
    table = plain_table()
    table.add_column("task", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for name in ("FLOPs", "take", "bytes", "take", "floor", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for floor in found:
        work = named(floor["workload"])
        tokens = tokens_of(work, floor["scenario"], floor["task"])
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
    """The number of texts in a generation's batch."""
    work = named(floor["workload"])
    return f" x {rows_of(work, floor['scenario'], floor['task'])}" if floor["scenario"] in ("text", "texts") else ""
