"""Machine, software and arguments of a run, its A/A test, and what was left out."""

from __future__ import annotations

from typing import Any

from bench.formatting import interval, size
from bench.report.result_keys import AA_TEST
from bench.report.section import Table, View
from bench.suite.result_file import Result

WORDS = (
    "Machine and software of this run. Other programs on a machine change its rates from one minute to the next: "
    "compare ratios, not rates.",
)

CLOCKS = {"now": "clock before, MHz", "most": "clock at most, MHz"}
CLOCKS |= {f"{which}_after_work": f"{which} clock after work, MHz" for which in ("lowest", "highest")}


def views(result: Result) -> tuple[View, ...]:
    """Tables of the environment, of the A/A test, and of what was left out."""
    tables = [Table("Environment", ("what", "value"), tuple(facts(result)), words=(0, 1))]
    found = result[AA_TEST]
    if found is not None:
        rows = [("all launches", interval(found["ratio"]))]
        rows += [(f"launch {number}", interval(one)) for number, one in enumerate(found["launches"], 1)]
        title = f"A/A test: {found['contender']}, {found['workload']}, {found['task'].replace('_', ' ')}"
        tables.append(Table(f"{title}; a method without error finds 1", ("", "times as fast"), tuple(rows)))
    if result["left_out"]:
        rows = [(str(number), line) for number, line in enumerate(result["left_out"], 1)]
        tables.append(Table("What was left out, and why", ("", "reason"), tuple(rows), words=(0, 1)))
    return (View("", tables=tuple(tables)),)


def facts(result: Result) -> list[tuple[str, str]]:
    """Everything that the file says about the machine, in words; n/a where it says nothing."""
    where, asked = result["environment"], result["arguments"]
    cores, kind = where["cores"], where["identity"]
    rows = [
        ("device", f"{where['device']} ({where['device_kind']})"),
        ("memory of the device", size(where["device_memory"])),
        ("bfloat16 instructions", worded(where["computes_bfloat16"])),
        ("instruction sets that torch may use", worded(kind["instruction_sets"])),
        *(("limited by environment variable", f"{name}={value}") for name, value in kind["limits"].items()),
        ("CPU", where["cpu"]),
        ("CPU instructions", ", ".join(where["cpu_flags"]) or "n/a"),
        ("cores", f"{worded(cores['physical'])} physical, {worded(cores['logical'])} logical"),
        ("memory", size(where["memory"])),
        ("load before", worded(where["load"])),
        *((CLOCKS.get(name, name.replace("_", " ")), worded(value)) for name, value in where["clocks"].items()),
        ("threads", worded(where["threads"])),
        ("float32 matmul precision", worded(where["matmul_precision"])),
        ("CUDA", worded(where["cuda"])),
        ("system", where["system"]),
        ("Python", where["python"]),
        *((name, worded(version)) for name, version in where["packages"].items()),
        ("commit", worded(where["commit"])),
        ("started", result["started"]),
        ("took", f"{result['seconds']:.0f} s" if result["seconds"] is not None else "n/a"),
        *((f"asked for: {name}", worded(value)) for name, value in asked.items()),
    ]
    return rows


def worded(value: Any) -> str:
    """A value as text: yes, no, a list with commas, n/a for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "n/a"
    if isinstance(value, float):
        return f"{value:g}"
    return "n/a" if value is None else str(value)
