"""`python -m bench diff A.json B.json`: what changed between two results, of the suite or of compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.environment import machine_differences, software_differences
from bench.formatting import WIDTH, Fitted, broken, plain_table, significant, size, terminal
from bench.settings import Diff
from bench.suite.result_file import Result, read

# The letters of a model's sizes in a name.
LETTERS = {"n_layer": "L", "n_head": "H", "n_embd": "C", "vocab_size": "V", "block_size": "block "}

SHAPES = "note: 8x64 is batch x time; 1x32+16 is texts x prompt + new tokens"


@dataclass(frozen=True)
class Number:
    """One number of a result."""

    name: str
    rate: float  # per second
    spread: float
    ratio: float | None  # to the base of its run
    memory: int | None


def diff(options: Diff) -> int:
    """Run the command; returns 0. Raises ValueError, one line, if the files are not comparable."""
    options.check()
    before, after = read(options.before), read(options.after)
    differing = list(machine_differences(before, after))
    if differing and not options.across_machines:
        raise ValueError(
            f"{options.before} and {options.after} are of different machines ({'; '.join(differing)}): their rates do "
            "not say what changed in the code; give --across-machines to compare them all the same"
        )
    width = terminal().width
    for line in lines(before, after, differing, options.threshold, width):
        print("\n".join(broken(line, width)))
    return 0


def numbers(result: Result) -> dict[str, Number]:
    """Every number of a result by a unique name, the same in every result.

    The name contains the measured shape (batch x time, or texts x prompt + new tokens). So if a plan's shape changes,
    the old number is gone and a new one appears, rather than one number that changed.
    """
    found = []
    for case in result["cases"]:
        name, ratio = f"{case['name']} {shape(case)}", first_ratio(case["ratios"])
        found.append(Number(name, case["tokens_per_second"], case["spread"], ratio, case["memory"]["peak"]))
    found += [
        Number(f"components/{p['name']}", p["per_second"], p["spread"], first_ratio(p.get("ratios", {})), p["memory"])
        for p in result["components"]
    ]
    for point in result["scaling"]:
        model = " ".join(f"{LETTERS.get(key, f'{key} ')}{value}" for key, value in point["config"].items())
        name = f"scaling/{point['axis']}/{point['value']}/{point['contender']} {shape(point)} {model}".rstrip()
        ratio = first_ratio(point["ratios"])
        found.append(Number(name, point["tokens_per_second"], point["spread"], ratio, point["memory"]))
    for entry in result["ablation"]:
        for task, kinds in entry["tasks"].items():
            for kind, one in kinds.items():
                if one is not None:
                    name = f"ablation/{entry['workload']}/{task}/{entry['rung']}/{kind} {shape(entry)}"
                    median = one["ratio"]["median"]
                    found.append(Number(name, one["tokens_per_second"], one["spread"], median, one["memory"]))
    return {number.name: number for number in found}


def shape(measured: dict[str, Any]) -> str:
    """The shape of a case or a point; see `SHAPES`."""
    after = f"{measured['prompt']}+{measured['new']}" if "prompt" in measured else measured["time"]
    return f"{measured['batch']}x{after}"


def first_ratio(ratios: dict[str, dict[str, float]]) -> float | None:
    """The median of the ratio to the first anchor; None where there is none."""
    return next((ratio["median"] for ratio in ratios.values()), None)


def lines(before: Result, after: Result, differing: list[str], threshold: float, width: int = WIDTH) -> Iterator[str]:
    """The output, line by line; the table fits into `width` columns."""
    from rich.console import Console

    yield f"A  {before['started']}  {before['environment']['commit'] or 'no commit'}"
    yield f"B  {after['started']}  {after['environment']['commit'] or 'no commit'}"
    for line in differing:
        yield f"note: another machine: {line}"
    yield from software_differences(before, after)
    if before["arguments"].get("quick") != after["arguments"].get("quick"):
        yield "note: one of them is of a quick run: its intervals are wide"
    a, b = numbers(before), numbers(after)
    for what, names in (("new", b.keys() - a.keys()), ("gone", a.keys() - b.keys())):
        for name in sorted(names):
            yield f"{what}: {name}"
    if a.keys() != b.keys():
        yield SHAPES
    both = [(a[name], b[name]) for name in b if name in a]
    changed = [(x, y) for x, y in both if is_changed(x, y, threshold)]
    yield (
        f"{len(both)} numbers are in both; {len(changed)} changed by more than {100 * threshold:g} % and their spread"
    )
    if changed:
        console = Console(width=width, highlight=False)
        with console.capture() as captured:
            console.print(Fitted(table(changed), together=(3, 2, 2)))
        yield from captured.get().splitlines()
    yield from proofs(before, after)


def is_changed(a: Number, b: Number, threshold: float) -> bool:
    """Whether the rate changed by more than its spread, or the memory changed.

    Compares ratios to the base where both have one: a busy machine slows both sides of a ratio.
    """
    x, y = (a.rate, b.rate) if a.ratio is None or b.ratio is None else (a.ratio, b.ratio)
    if a.ratio == b.ratio == 1.0:
        x, y = a.rate, b.rate  # the base itself
    rate = abs(y / x - 1) > max(threshold, a.spread + b.spread)
    heavier = bool(a.memory and b.memory and abs(b.memory / a.memory - 1) > max(threshold, 0.1))
    return rate or heavier


def table(changed: list[tuple[Number, Number]]) -> Any:
    """The changed numbers, largest loss first."""
    found = plain_table()
    found.add_column("", no_wrap=True)
    for name in ("per second\nA", "\nB", "\ntimes", "ratio\nA", "\nB", "memory\nA", "\nB"):
        found.add_column(name, justify="right", no_wrap=True)
    for a, b in sorted(changed, key=lambda pair: pair[1].rate / pair[0].rate):
        found.add_row(
            a.name,
            significant(a.rate),
            significant(b.rate),
            f"{b.rate / a.rate:.2f}",
            "" if a.ratio is None else f"{a.ratio:.2f}",
            "" if b.ratio is None else f"{b.ratio:.2f}",
            size(a.memory),
            size(b.memory),
        )
    return found


def proofs(before: Result, after: Result) -> Iterator[str]:
    """Lines for contenders whose proof passed in only one of the files."""
    passed = [{(p["size"], p["contender"]): p for p in result["parity"]} for result in (before, after)]
    for key in passed[0].keys() & passed[1].keys():
        a, b = passed[0][key], passed[1][key]
        if a["passed"] != b["passed"]:
            word = "passes now" if b["passed"] else f"fails now ({b['why']})"
            yield f"proof: {key[1]} at {key[0]} {word}"
