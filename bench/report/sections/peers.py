"""Every contender at the same workload and task, against the readable model."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.formatting import interval, size
from bench.report.charts import Axis, Dot, dots
from bench.report.section import Chart, Table, View
from bench.report.sections.ablation import rate
from bench.suite.result_file import Result
from bench.suite.tables import basis, cost_of, groups, name_of, shares_of

WORDS = (
    "The readable model, Hugging Face's GPT-2 in several settings, and the fast model, on the same weights and tokens. "
    "Each runs in a process of its own and they take turns, A B C A B C; a ratio compares times of the same turn. The "
    "bar through a point is its interval: of 95 %, less with fewer than six rounds or several launches, as the title "
    "of the table says. A contender that fails its proof at a size has no number there; its row gives the reason.",
    "Tokens/s come from the median time, ± half the distance between the quartiles. MFU is the share of the device's "
    "rate of matrix products that is used: of the measured rate and of the data sheet's; n/a where that is unknown. "
    "Floor is the least time by the roofline, divided by the time taken. Compiling is outside the times and has its "
    "own column: everything that the process has compiled so far. Memory is the peak of the process so far, the "
    "compiler's included, without interpreter and libraries.",
)

OVERVIEW = "training_step"  # the task of the first view

Case = dict[str, Any]


def base_of(cases: list[Case]) -> str | None:
    """The contender that the ratios of a group are against; None if there are no ratios."""
    return next((anchor for case in cases for anchor in case["ratios"]), None)


def views(result: Result) -> tuple[View, ...]:
    """The training step at every size, then a view for each group."""
    found = groups(result)
    steps = [cases for cases in found if cases[0]["task"] == OVERVIEW and base_of(cases) is not None]
    each = tuple(view(result, cases) for cases in found)
    return (overview(result, steps), *each) if steps else each


def overview(result: Result, steps: list[list[Case]]) -> View:
    """One chart of ratios for each size, the largest size first."""
    steps = sorted(steps, key=lambda cases: -max(median(case["seconds"]) for case in cases))
    charts = tuple(ratios_chart(result, cases, name_of(cases)) for cases in steps)
    rows = [
        (name_of(cases), case["contender"], interval(case["ratios"][base]), rate(case))
        for cases in steps
        for base in [base_of(cases)]
        for case in cases
        if base is not None and base in case["ratios"]
    ]
    head = ("what", "contender", "times as fast", "tokens/s")
    return View(
        "training step at every size",
        charts,
        (Table("The training step at every size", head, tuple(rows), words=(0, 1)),),
    )


def ratios_chart(result: Result, cases: list[Case], title: str) -> Chart:
    """The ratios of a group, with their intervals."""
    base = base_of(cases)
    ratios = [
        Dot(
            case["contender"],
            case["precision"],
            case["ratios"][base]["median"],
            interval(case["ratios"][base]),
            case["ratios"][base]["low"],
            case["ratios"][base]["high"],
        )
        for case in cases
        if base is not None and base in case["ratios"]
    ]
    precisions = [case["precision"] for case in result["cases"]]
    axis = Axis(f"times as fast as {base}", log=True, rule=1.0)
    return dots(title, ratios, axis, side_by_side=False, all_kinds=precisions)


def view(result: Result, cases: list[Case]) -> View:
    """The ratios and memory of a group, and its table."""
    name, charts = name_of(cases), []
    if base_of(cases) is not None:
        charts.append(ratios_chart(result, cases, f"Speed against {base_of(cases)}, {name}"))
    precisions = [case["precision"] for case in result["cases"]]
    memory = [
        Dot(case["contender"], case["precision"], case["memory"]["peak"], size(case["memory"]["peak"]))
        for case in cases
        if case["memory"]["peak"]
    ]
    if memory:
        charts.append(
            dots(f"Memory, {name}", memory, Axis("peak memory", bytes=True), side_by_side=False, all_kinds=precisions)
        )
    return View(name, tuple(charts), (table(result, cases),))


def table(result: Result, cases: list[Case]) -> Table:
    """A row for each contender, then one for each contender that has no number."""
    base = base_of(cases)
    head = (
        *("contender", "precision", f"times {base}", "tokens/s", "MFU, measured", "MFU, data sheet", "floor"),
        *("compiling", "peak memory", "error / budget"),
    )
    rows = [
        (
            case["contender"],
            case["precision"],
            interval(case["ratios"][base]) if base is not None and base in case["ratios"] else "n/a",
            rate(case),
            *shares_of(case),
            *cost_of(case),
        )
        for case in cases
    ]
    known = {case["contender"] for case in cases}
    for found in result["parity"]:
        same = found["size"] == cases[0]["size"] and found["shape"] == cases[0]["parity"]["shape"]
        if same and not found["passed"] and found["contender"] not in known:
            rows.append((found["contender"], f"no number: {found['why']}", *[""] * (len(head) - 2)))
    return Table(f"{name_of(cases)}; {basis(*cases)}", head, tuple(rows), words=(0, 1))


def named_with(best: Case, cases: list[Case], base: str | None) -> str:
    """The fastest contender, then after "or" the contenders whose interval overlaps its own, fastest first."""
    if base is None or base not in best["ratios"]:
        return str(best["contender"])
    low = best["ratios"][base]["low"]
    near = [c for c in cases if c is not best and base in c["ratios"] and c["ratios"][base]["high"] >= low]
    near = sorted((c for c in near if c["contender"] != base), key=lambda case: -case["ratios"][base]["median"])
    return " or ".join(case["contender"] for case in (best, *near))


def fastest_views(result: Result) -> tuple[View, ...]:
    """The fastest contender of each group."""
    rows = []
    for cases in groups(result):
        base = base_of(cases)
        # by ratios where there are any: absolute times drift
        best = max(
            cases, key=lambda case: (case["ratios"].get(base, {"median": 0.0})["median"], case["tokens_per_second"])
        )
        times = interval(best["ratios"][base]) if base is not None and base in best["ratios"] else "n/a"
        memory = size(best["memory"]["peak"])
        rows.append((name_of(cases), named_with(best, cases, base), f"{base} × {times}", rate(best), memory))
    if not rows:
        return ()
    head = ("what", "fastest", "times as fast", "tokens/s", "peak memory")
    return (View("", tables=(Table("The fastest proven contender", head, tuple(rows), words=(0, 1)),)),)
