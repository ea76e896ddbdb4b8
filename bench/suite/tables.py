"""Print a result: the machine, for a comparison the proofs, then ratios and rates."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from bench.environment import identity_in_words
from bench.formatting import (
    NOT_THE_SAME,
    WIDTH,
    Fitted,
    as_text,
    broken,
    interval,
    plain_table,
    scientific,
    significant,
    size,
)
from bench.suite.result_file import Result
from bench.timing.ratios import confidence_of

QUESTIONS = {"function": "Is it the same function?", "rounding": "Does it only round?"}
PROOF_NOTE = "error/budget: the largest of all, above 1 fails; top-1: same most probable token."
TIMES_NOTE = (
    "times: speed relative to the base, from times of the same round, [interval with the confidence in the title: "
    "95 %, less with fewer than six rounds or launches]; tokens/s: median ± half the distance between the quartiles; "
)
CEILINGS_NOTE = (
    "MFU: of the measured ceiling; sheet: MFU of the data sheet's; floor: the least time by the roofline / this time; "
)
COST_NOTE = (
    "compile: seconds so far; memory: the process's peak so far, with the compiler, without libraries; parity: "
    "largest error / budget of the proof, above 1 fails."
)
AA_NOTE = (
    "over {} launches of both processes ({}). In a table of one launch, a ratio as close to 1 as this interval is "
    "wide may come from the launch, not from the contender."
)
COMPONENTS_NOTE = "times: speed relative to the 1 above it, timed in turn, [interval]."
ABLATION_NOTE = (
    "relative speed. alone: PLAIN with the rung / PLAIN; leave-one-out: the best recipe with the rung / without it; "
    "cumulative: the ladder up to the rung / PLAIN. A cache cannot change a training step, nor AdamW generation: how "
    "far those rows are from 1 shows how far to trust the others. Intervals of several launches include differences "
    "between launches; intervals of one do not. "
)


def show(result: Result, width: int = WIDTH) -> list[str]:
    """A result as lines of at most `width` characters."""
    return as_text(lambda console: print_to(console, result), width).splitlines()


def print_to(console: Any, result: Result) -> None:
    """Print the machine, all tables and what is left out to a rich console."""
    console.print()
    for line in heading(result):
        console.print(line, markup=False)
    for title, table, note in tables(result):
        console.print()
        console.print(title, style="bold", markup=False)
        console.print(table)
        for line in note.splitlines():
            console.print(line, style="dim", markup=False)
    if result["left_out"]:
        console.print()
        console.print("Left out:")
        for line in result["left_out"]:
            for piece in broken(f"  {line}", console.width):
                console.print(piece, markup=False)


def heading(result: Result) -> Iterator[str]:
    """The machine and the software, the workloads, and reasons why the numbers may be worse than usual."""
    where, cases = result["environment"], result["cases"]
    yield identity_in_words(where["identity"]) + (
        f" of {where['cores']['logical']} cores"
        if where["device_kind"] == "cpu"
        else f", {where['device_memory'] / 1e9:.0f} GB"
    )
    yield "with " + ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version)
    for work in result["workloads"]:
        own = {case["contender"]: case["precision"] for case in cases if case["workload"] == work["name"]}
        coarse = ", ".join(name for name, precision in own.items() if precision != work["precision"])
        yield (
            f"{work['name']}: {work['parameters']:,} parameters, batch {work['batch']} x time {work['time']}, "
            f"{work['precision']}{f'; {coarse}: bfloat16' if coarse else ''}"
            f"{'' if work['config']['bias'] else ', without biases'}"
        )
    asked = [work["precision"] for work in result["workloads"]]
    if "bfloat16" in [*asked, *(case["precision"] for case in cases)] and where["computes_bfloat16"] is False:
        yield "note: this device has no bfloat16 instructions and emulates them: expect it to be slower"
    cores = where["cores"]["logical"] or 1
    if where["device_kind"] == "cpu" and where["load"] is not None and where["load"] > 0.25 * cores:
        yield (
            f"note: the machine was busy before this began (load {where['load']} on {cores} cores): trust ratios, not "
            "rates"
        )


def tables(result: Result) -> Iterator[tuple[str, Any, str]]:
    """Yield the title, table and note of each table."""
    if result["kind"] == "compare":
        yield from proof_tables(result["parity"])
    ceilings, together = result["roofline"] is not None, groups(result)
    for cases in together:
        others = [p for p in result["parity"] if p["size"] == cases[0]["size"] and p["unlike"]]
        table = cases_table(cases, [p["contender"] for p in others], ceilings)
        note = list(first_calls(cases))
        if cases is together[-1]:
            note.append(TIMES_NOTE + (CEILINGS_NOTE if ceilings else "") + COST_NOTE)
        fitted = Fitted(table, together=(2, 2) if ceilings else (2,))
        yield f"{name_of(cases)}; {basis(*cases)}", fitted, "\n".join(note)
    if result["components"]:
        yield "Components", Fitted(components_table(result["components"]), keys=2, together=(2,)), COMPONENTS_NOTE
    if result["ablation"]:
        note_of_all = f"{ABLATION_NOTE}{'; '.join(bases(result['ablation']))}."
        yield "Ablation of every rung", Fitted(ablation_table(result["ablation"]), keys=2), note_of_all
    if result["aa_test"]:
        found, ratio = result["aa_test"], result["aa_test"]["ratio"]
        line = f"{found['contender']}, {found['workload']}/{found['task']}: {interval(ratio)}"
        yield (
            "A/A test: a contender against a second copy of it",
            line,
            AA_NOTE.format(len(found["launches"]), percent(ratio["confidence"])),
        )


def groups(result: Result) -> list[list[dict[str, Any]]]:
    """Cases that were measured together."""
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in result["cases"]:
        together.setdefault((case["workload"], case["scenario"], case["task"]), []).append(case)
    return list(together.values())


def name_of(cases: list[dict[str, Any]]) -> str:
    """Workload, task and shape of a group, in words."""
    return f"{cases[0]['workload']}: {cases[0]['task'].replace('_', ' ')}{shape(cases[0])}"


def proof_tables(parity: list[dict[str, Any]]) -> Iterator[tuple[str, Any, str]]:
    """A table for each check, with the errors of each contender."""
    by_check: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for found in parity:
        for check in found["checks"]:
            by_check.setdefault(check["question"], []).append((found, check))
    for question, rows in by_check.items():
        check = rows[0][1]
        title = f"{QUESTIONS[question]} In {check['precision']}, against {check['oracle']}"
        yield title, Fitted(proof_table(rows)), f"{made_with(check)}\n{PROOF_NOTE}"


def proof_table(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> Any:
    """A row for each contender of a check."""
    steps = rows[0][1]["steps"]
    table = plain_table()
    table.add_column("contender", no_wrap=True)
    for name in ("logits", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst gradient", no_wrap=True)
    for name in (*([f"{steps} step{'s' if steps > 1 else ''}"] if steps else []), "top-1", "error/budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for found, check in rows:
        worst, wrong = check["worst"], bool(check["failures"]) and not found["unlike"]
        table.add_row(
            found["contender"],
            scientific(worst["logits"]["error"]),
            scientific(worst["loss"]["error"]),
            f"{scientific(worst['gradient']['error'])} {worst['gradient']['name']}",
            *([scientific(worst["trajectory"]["error"])] if steps else []),
            f"{100 * check['top1']:.1f} %",
            f"{check['over']:.3g}{' FAILED' if wrong else ''}" if check["failures"] else f"{check['over']:.2f}",
            style="red" if wrong else "",
        )
    return table


def made_with(check: dict[str, Any]) -> str:
    """Weights and shapes of a check."""
    (B, T), (b, t), steps = check["shape"], check["gradient_shape"], check["steps"]
    taken = f"{steps} AdamW step{'s' if steps > 1 else ''}" if steps else "no steps"
    where = f"at batch {B} x time {T}"
    if (b, t) != (B, T):
        where = f"(logits, loss: batch {B} x time {T}; the rest: batch {b} x time {t})"
    return f"relative L2 distances, with {check['weights']} random weights, {where}; {taken}."


def first_calls(cases: list[dict[str, Any]]) -> Iterator[str]:
    """A line with the extra seconds of first calls that took a second longer: they compile and allocate."""
    more = {case["contender"]: case["first"] - median(case["seconds"]) for case in cases}
    if words := [f"{name} {seconds:.0f} s" for name, seconds in more.items() if seconds >= 1.0]:
        yield f"the first call took longer, by its compiling and allocating: {', '.join(words)}."


def shape(case: dict[str, Any]) -> str:
    """Batch and time, in words."""
    if "prompt" in case:
        return f", {case['batch']} x {case['new']} tokens after {case['prompt']}"
    return f", batch {case['batch']} x time {case['time']}"


def basis(*measured: dict[str, Any]) -> str:
    """The rounds and launches behind intervals, and the least confidence: groups may have different rounds."""
    rounds, launches = [sum(one["rounds"]) for one in measured], len(measured[0]["rounds"])
    least, most = min(rounds), max(rounds)
    number = str(least) if least == most else f"{least} to {most}"
    words = f"{launches} launches" if launches > 1 else "1 launch"
    return f"{number} rounds of {words}, {percent(confidence_of(launches if launches > 1 else least))}"


def percent(confidence: float) -> str:
    """A confidence in per cent."""
    return f"{100 * confidence:.0f} %"


def cases_table(cases: list[dict[str, Any]], others: list[str], ceilings: bool) -> Any:
    """A row for each contender; one that is another function has no numbers.

    Args:
        ceilings: whether to show the shares of the device's rates
    """
    base = next(iter(cases[0]["ratios"]))
    table = plain_table()
    table.add_column("contender", no_wrap=True)
    shares = ("MFU", "sheet", "floor") if ceilings else ()
    for name in (f"times {base}", "tokens/s", *shares, "compile", "memory", "parity"):
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        table.add_row(
            case["contender"],
            "1" if case["contender"] == base else interval(case["ratios"][base]),
            f"{significant(case['tokens_per_second'])} ±{100 * case['spread']:.0f} %",
            *(shares_of(case) if ceilings else ()),
            *cost_of(case),
        )
    for name in others:
        table.add_row(name, NOT_THE_SAME)
    return table


def shares_of(case: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a case: MFU of the measured ceiling and of the data sheet's, share of the floor."""
    return (
        share(case["mfu"]["measured"]),
        share(case["mfu"]["data_sheet"]),
        share(case["floor"] and case["floor"]["share"]),
    )


def cost_of(case: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a case: seconds of compiling ("" if none), peak memory, largest error / budget."""
    return (
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
