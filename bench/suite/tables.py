"""Print a result of the suite as tables: ratios first, then rates."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from bench.environment import identity_in_words
from bench.formatting import NOT_THE_SAME, WIDTH, Fitted, broken, interval, plain_table, scientific, significant, size
from bench.timing.ratios import confidence_of

Result = dict[str, Any]

CASES_NOTE = (
    "times: speed relative to the base, from times of the same round, [interval with the confidence in\n"
    "the title: 95 %, less with fewer than six rounds or launches]; MFU: of the measured ceiling; sheet:\n"
    "MFU of the data sheet's; floor: the least time by the roofline / this time; compile: seconds so far;\n"
    "memory: the process's peak so far, with the compiler, without libraries; parity: largest error /\n"
    "budget of the proof, above 1 fails."
)
AA_NOTE = (
    "over {} launches of both processes ({}). In a table of one launch, a ratio as close to 1 as this\n"
    "interval is wide may come from the launch, not from the contender."
)
COMPONENTS_NOTE = "times: speed relative to the 1 above it, timed in turn, [interval]."


def show(result: Result, width: int = WIDTH) -> list[str]:
    """The device and all tables of a result, as lines of at most `width` characters."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print()
    console.print(identity_in_words(result["environment"]["identity"]), markup=False)
    for title, table, note in tables(result):
        console.print()
        console.print(title, style="bold", markup=False)
        console.print(table)
        if note:
            # keep the note's line breaks if its lines fit
            whole = max(map(len, note.splitlines())) <= width
            console.print(note if whole else " ".join(note.split()), style="dim", markup=False)
    if result["left_out"]:
        console.print()
        console.print("Left out:")
        for line in result["left_out"]:
            for piece in broken(f"  {line}", width):
                console.print(piece, markup=False)
    return out.getvalue().splitlines()


def tables(result: Result) -> Iterator[tuple[str, Any, str]]:
    """Yield the title, table and note of each table."""
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in result["cases"]:
        together.setdefault((case["workload"], case["scenario"], case["task"]), []).append(case)
    for (workload, _, task), cases in together.items():
        last = cases is list(together.values())[-1]
        title = f"{workload}: {task.replace('_', ' ')}{shape(cases[0])}; {basis(cases[0])}"
        others = [p for p in result["parity"] if p["size"] == cases[0]["size"] and p["unlike"]]
        table = Fitted(cases_table(cases, [p["contender"] for p in others]), together=(2, 2))
        yield title, table, CASES_NOTE if last else ""
    if result["components"]:
        yield "Components", Fitted(components_table(result["components"]), keys=2, together=(2,)), COMPONENTS_NOTE
    if result["ablation"]:
        yield (
            "Ablation of every rung",
            Fitted(ablation_table(result["ablation"]), keys=2),
            "relative speed. alone: PLAIN with the rung / PLAIN; leave-one-out: the best recipe with the rung /\n"
            "without it; cumulative: the ladder up to the rung / PLAIN. A cache cannot change a training step,\n"
            "nor AdamW generation: how far those rows are from 1 shows how far to trust the others. Intervals\n"
            "of several launches include differences between launches; intervals of one do not.\n"
            f"{'; '.join(bases(result['ablation']))}.",
        )
    if result["aa_test"]:
        found, ratio = result["aa_test"], result["aa_test"]["ratio"]
        line = f"{found['contender']}, {found['workload']}/{found['task']}: {interval(ratio)}"
        yield (
            "A/A test: a contender against a second copy of it",
            line,
            AA_NOTE.format(len(found["launches"]), percent(ratio["confidence"])),
        )


def shape(case: dict[str, Any]) -> str:
    """Batch and time, in words."""
    if "prompt" in case:
        return f", {case['batch']} x {case['new']} tokens after {case['prompt']}"
    return f", batch {case['batch']} x time {case['time']}"


def basis(measured: dict[str, Any]) -> str:
    """The rounds and launches behind an interval, and its confidence."""
    rounds = measured["rounds"]
    words = f"{len(rounds)} launches" if len(rounds) > 1 else "1 launch"
    return f"{sum(rounds)} rounds of {words}, {percent(confidence_of(len(rounds) if len(rounds) > 1 else rounds[0]))}"


def percent(confidence: float) -> str:
    """A confidence in per cent."""
    return f"{100 * confidence:.0f} %"


def cases_table(cases: list[dict[str, Any]], others: list[str]) -> Any:
    """A row for each contender; one that is another function has no numbers."""
    base = next(iter(cases[0]["ratios"]))
    table = plain_table()
    table.add_column("contender", no_wrap=True)
    for name in (f"times {base}", "tokens/s", "MFU", "sheet", "floor", "compile", "memory", "parity"):
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        table.add_row(
            case["contender"],
            "1" if case["contender"] == base else interval(case["ratios"][base]),
            f"{significant(case['tokens_per_second'])} ±{100 * case['spread']:.0f} %",
            *cost_of(case),
        )
    for name in others:
        table.add_row(name, NOT_THE_SAME)
    return table


def cost_of(case: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a case: MFU of the measured ceiling and the data sheet's, share of the floor, seconds of compiling
    ("" if none), peak memory, largest error / budget."""
    return (
        share(case["mfu"]["measured"]),
        share(case["mfu"]["data_sheet"]),
        share(case["floor"] and case["floor"]["share"]),
        f"{case['compile']['seconds']:.1f} s" if case["compile"]["graphs"] else "",
        size(case["memory"]["peak"]),
        f"{max(case['parity']['over'].values()):.2f}",
    )


def components_table(components: list[dict[str, Any]]) -> Any:
    """Components by themselves."""
    table = plain_table()
    table.add_column("component", no_wrap=True)
    table.add_column("at", no_wrap=True)
    for name in ("per second", "times", "spread", "memory", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for component in components:
        ratios = component.get("ratios", {})
        base = next(iter(ratios), None)
        table.add_row(
            component["component"],
            component["workload"],
            f"{component['per_second']:,.4g} {component['unit']}",
            "" if base is None else "1" if base == component["component"] else interval(ratios[base]),
            f"±{100 * component['spread']:.0f} %",
            size(component["memory"]),
            scientific(component["error"]),
        )
    return table


def bases(ablation: list[dict[str, Any]]) -> list[str]:
    """The rounds and launches of each task, in words."""
    found = {task: one for entry in ablation for task, kinds in entry["tasks"].items() for one in kinds.values() if one}
    return [f"{task.replace('_', ' ')}: {basis(one)}" for task, one in found.items()]


def ablation_table(ablation: list[dict[str, Any]]) -> Any:
    """A row for each rung and task."""
    table = plain_table()
    table.add_column("rung", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for name in ("alone", "leave-one-out", "cumulative"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in ablation:
        for number, (task, found) in enumerate(entry["tasks"].items()):
            cells = (
                "n/a" if found[kind] is None else interval(found[kind]["ratio"])
                for kind in ("alone", "leave_one_out", "cumulative")
            )
            table.add_row(entry["rung"] if number == 0 else "", task.replace("_", " "), *cells)
    return table


def share(value: float | None) -> str:
    """A share in per cent; n/a if it is not known."""
    return "n/a" if value is None else f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"
