"""The headline: GPT-2 at its real size, the readable model beside Hugging Face's best and ours."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.environment import identity_in_words
from bench.formatting import interval, milliseconds, significant
from bench.report.charts import Bar, grouped_bars
from bench.report.section import Table, View
from bench.report.sections.peers import base_of
from bench.suite.result_file import Result
from bench.suite.tables import groups

TITLE = "GPT-2 (124M): tokens per second"
WORDS = ("A longer bar is faster; the time of one training step, or of one generated token, stands behind it.",)
EMPTY = "No run has GPT-2's size: measure it by nox -s bench."
SIZE = "gpt2"
TASKS = {"training_step": "Training step", "per_token": "Generation, one token"}
REFERENCE, HUGGING_FACE, OURS = "readable reference", "Hugging Face's best", "ours"
NAMES_OF_OURS = ("optimized", "full")  # the recipe with the rungs that pay; in older runs, that with all rungs

Case = dict[str, Any]


def views(result: Result) -> tuple[View, ...]:
    """One chart and its table; none for a run without GPT-2's size."""
    rows: list[tuple[str, ...]] = []
    bars: list[Bar] = []
    for cases in groups(result):
        task = TASKS.get(cases[0]["task"])
        if cases[0]["size"] != SIZE or task is None or any(bar.group == task for bar in bars):
            continue
        base = base_of(cases)
        for name, case in chosen(cases, base).items():
            rate, time = case["tokens_per_second"], median(case["seconds"])
            times = interval(case["ratios"][base]) if base is not None and base in case["ratios"] else "n/a"
            bars.append(Bar(task, name, rate, f"{three_digits(rate)}/s, {in_words(time)}"))
            rows.append(
                (f"{task}, {name}", case["contender"], case["precision"], significant(rate), milliseconds(time), times)
            )
    if not bars:
        return ()
    device = identity_in_words(result["environment"]["identity"])
    head = ("", "contender", "precision", "tokens/s", "time", "times the reference")
    table = Table(f"GPT-2 (124M), {device}", head, tuple(rows), words=(0, 1, 2), folded=True)
    return (View("", (grouped_bars(device, bars, "tokens per second"),), (table,)),)


def three_digits(value: float) -> str:
    """A number in three digits: 1,234, 123, 12.3 or 1.23."""
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f}"


def in_words(seconds: float) -> str:
    """A time in three digits: 2.40 s or 797 ms."""
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{three_digits(1000 * seconds)} ms"


def chosen(cases: list[Case], base: str | None) -> dict[str, Case]:
    """The cases of a group that are shown, by the name they are shown under."""
    by_name = {case["contender"]: case for case in cases}

    def speed(case: Case) -> tuple[float, float]:
        ratio = case["ratios"].get(base, {"median": 0.0})
        return ratio["median"], case["tokens_per_second"]

    theirs = [case for name, case in by_name.items() if name.partition("-")[0] == "huggingface"]
    ours = next((by_name[name] for name in NAMES_OF_OURS if name in by_name), None)
    found = {REFERENCE: by_name.get("reference"), HUGGING_FACE: max(theirs, key=speed, default=None), OURS: ours}
    return {name: case for name, case in found.items() if case is not None}
