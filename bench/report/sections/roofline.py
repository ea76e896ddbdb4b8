"""The roofline: ceilings of the device, the least time (floor) of each task, and each contender's share of it."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.formatting import milliseconds, per_second, scaled, significant
from bench.report.charts import Axis, Dot, dots, ordered, roofline
from bench.report.result_keys import SCENARIO
from bench.report.section import Chart, Table, View
from bench.roofline.roofline import SQUARE
from bench.suite.result_file import Result
from bench.suite.tables import groups, share

WORDS = (
    "The device is measured first: its rate of matrix products in these models' own shapes in each precision, and its "
    "memory bandwidth. A task must do its products and read its weights; the time that this takes at those rates is "
    "its floor. The roof in the drawing is the device's limit for work of so many operations per byte: left of the "
    "edge memory limits, right of it arithmetic.",
    "At 100 % of the floor, products or weights take as long as the device needs for them alone, and everything else "
    "takes no time. A share above 100 % is possible: code may multiply a shape faster than the library does, and "
    "weights may stay in a cache. The ceiling of a precision is its best rate over all shapes; each run measures a "
    "large square product too, so the ceiling hardly depends on the workloads.",
)


def views(result: Result) -> tuple[View, ...]:
    """The roofs, then the floors of each workload."""
    found = result["roofline"]
    if found is None:
        return ()
    points = points_of(result)
    whole = View("the device", roofs(result, points), (ceilings_table(found), points_table(points)))
    workloads = ordered(floor["workload"] for floor in found["floors"])
    return (whole, *(view(result, workload) for workload in workloads))


def floor_of(result: Result, case: dict[str, Any]) -> dict[str, Any] | None:
    """The floor of a case's task in its precision; None if it was not measured."""
    wanted = {key: case[key] for key in ("workload", SCENARIO, "task", "precision")}
    return next((floor for floor in result["roofline"]["floors"] if wanted.items() <= floor.items()), None)


def points_of(result: Result) -> list[dict[str, Any]]:
    """Every case that has a floor, as a point for `bench.report.charts.roofline`."""
    found = []
    for case in result["cases"]:
        floor = floor_of(result, case)
        if floor is not None and floor["bytes"]:
            rate = case["flops_per_second"]
            found.append(
                {
                    "name": case["name"],
                    "kind": case["task"].replace("_", " "),
                    "precision": case["precision"],
                    "intensity": floor["operations"] / floor["bytes"],
                    "flops": rate,
                    "says": f"{case['name']}: {per_second(rate, 'FLOP')}",
                }
            )
    return found


def roofs(result: Result, points: list[dict[str, Any]]) -> tuple[Chart, ...]:
    """The roofs, with a point for each case."""
    found = result["roofline"]
    bandwidth = found["bandwidth"]["measured"]
    ceilings = {name: ceiling["measured"] for name, ceiling in found["ceilings"].items() if ceiling["measured"]}
    if not points or not bandwidth or not ceilings:
        return ()
    left = min(point["intensity"] for point in points) / 2
    right = 4 * max(max(point["intensity"] for point in points), max(ceilings.values()) / bandwidth)
    corners, ends = [], []
    for precision, ceiling in ceilings.items():
        edge = ceiling / bandwidth
        for intensity in (left, edge, right) if left < edge else (left, right):
            flops = min(ceiling, intensity * bandwidth)
            corners.append({"precision": precision, "intensity": intensity, "flops": flops})
        ends.append({"precision": precision, "intensity": right, "flops": ceiling})
    return (roofline("The roofline, with every measured case", corners, ends, points),)


def view(result: Result, workload: str) -> View:
    """How close each contender comes to the floors of a workload, and the floors."""
    together = [cases for cases in groups(result) if cases[0]["workload"] == workload]
    shares = [
        Dot(short(cases), case["contender"], case["floor"]["share"], share(case["floor"]["share"]))
        for cases in together
        for case in cases
        if case["floor"] is not None
    ]
    axis = Axis("share of the floor", format=".0%")
    contenders = [case["contender"] for case in result["cases"]]
    title = f"How close to the floor, {workload}"
    charts = (dots(title, shares, axis, side_by_side=False, all_kinds=contenders),) if shares else ()
    floors = [floor for floor in result["roofline"]["floors"] if floor["workload"] == workload]
    return View(workload, charts, (shares_table(result, workload), floors_table(floors, workload)))


def short(cases: list[dict[str, Any]]) -> str:
    """Task and shape of a group; the workload is in the title."""
    case = cases[0]
    texts = "1 text" if case["batch"] == 1 else f"{case['batch']} texts"
    rows = f"{case['batch']} x {case['time']}" if "time" in case else texts
    return f"{case['task'].replace('_', ' ')}, {rows}"


def ceilings_table(found: dict[str, Any]) -> Table:
    """The ceiling of each precision, and of memory."""
    squares = [rate for rate in found["rates"] if rate["product"]["name"] == SQUARE]
    rows = []
    for precision, ceiling in found["ceilings"].items():
        rows.append((f"{precision} products", *(per_second(ceiling[of], "FLOP") for of in ("measured", "data_sheet"))))
        for rate in squares:
            if rate["precision"] == precision:
                words = f"{precision}, a {SQUARE} of {rate['product']['rows']:,} alone"
                rows.append((words, per_second(rate["flops_per_second"], "FLOP"), ""))
    rows.append(("memory", *(per_second(found["bandwidth"][of], "B") for of in ("measured", "data_sheet"))))
    return Table("Ceilings of this device", ("", "measured", "data sheet"), tuple(rows))


def points_table(points: list[dict[str, Any]]) -> Table:
    """The points under the roofs, in numbers."""
    rows = [
        (point["name"], point["precision"], significant(point["intensity"]), per_second(point["flops"], "FLOP"))
        for point in points
    ]
    head = ("case", "precision", "operations for each byte", "operations per second")
    return Table("Every case under the roofs", head, tuple(rows), words=(0, 1), folded=True)


def shares_table(result: Result, workload: str) -> Table:
    """The time of each contender, beside the floor."""
    rows = [
        (
            short(cases),
            case["contender"],
            case["precision"],
            milliseconds(median(case["seconds"])),
            "n/a" if case["floor"] is None else milliseconds(case["floor"]["seconds"]),
            share(case["floor"] and case["floor"]["share"]),
        )
        for cases in groups(result)
        if cases[0]["workload"] == workload
        for case in cases
    ]
    head = ("task", "contender", "precision", "it took", "floor", "share of the floor")
    return Table(f"{workload}: how close", head, tuple(rows), words=(0, 1, 2))


def floors_table(floors: list[dict[str, Any]], workload: str) -> Table:
    """The least time of each task, and what sets it."""
    rows = [
        (
            f"{floor[SCENARIO]}: {floor['task'].replace('_', ' ')}",
            floor["precision"],
            scaled(floor["operations"], "FLOP"),
            scaled(floor["bytes"], "B"),
            milliseconds(floor["seconds_of_operations"]),
            milliseconds(floor["seconds_of_bytes"]),
            milliseconds(floor["seconds"]),
        )
        for floor in floors
    ]
    head = ("task", "precision", "operations", "bytes", "operations take", "bytes take", "floor")
    return Table(f"{workload}: the floors", head, tuple(rows), words=(0, 1))
