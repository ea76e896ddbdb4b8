"""On a narrow terminal a table has fewer columns, or its rows below each other, and no number is cut."""

from __future__ import annotations

import copy
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.environment import identity_in_words
from bench.formatting import Fitted, broken, plain_table, terminal
from bench.roofline import command as roofline
from bench.suite import diff
from bench.suite import tables as suite_tables
from bench.suite.result_file import HOME, read, save
from tests.bench.compare.made_up_compare import compare_result, roofline_result

ROOT = Path(__file__).parents[2]
SUITE = read(sorted(HOME.glob("*.json"))[0])
COMPARE, ROOFLINE = compare_result(), roofline_result()
WIDTHS = (100, 80, 60, 40)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def slower() -> dict[str, Any]:
    """The suite's result again, every rate and memory another one."""
    found = copy.deepcopy(SUITE)
    for one in (*found["cases"], *found["scaling"], *found["components"]):
        one["tokens_per_second" if "tokens_per_second" in one else "per_second"] *= 0.1
        for ratio in one.get("ratios", {}).values():
            ratio["median"] *= 0.1
    return found


def changed() -> Any:
    a, b = diff.numbers(SUITE), diff.numbers(slower())
    return diff.table([(a[name], b[name]) for name in a if name in b])


def every_table() -> Iterator[tuple[str, Fitted]]:
    """All tables that commands print, as they print them."""
    found = ROOFLINE["roofline"]
    for number, (_, table, _) in enumerate(suite_tables.tables(COMPARE)):
        yield f"compare {number}", table
    yield "ceilings", Fitted(roofline.ceilings_table(found))
    yield "rates", Fitted(roofline.rates_table(found["rates"]), keys=2, together=(3, 3, 3))
    yield "floors", Fitted(roofline.floors_table(found["floors"]), keys=2, together=(2, 2))
    yield "diff", Fitted(changed(), together=(3, 2, 2))
    for number, (_, table, _) in enumerate(suite_tables.tables(SUITE)):
        if isinstance(table, Fitted):
            yield f"suite {number}", table


EVERY = dict(every_table())


def lines_of(table: Fitted, width: int) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def words(line: str) -> list[str]:
    """What is between gaps of two spaces: a cell is one of them."""
    return [word.strip() for word in re.split(r"  +", line) if word.strip()]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", EVERY)
def test_every_cell_is_there_whole_and_once_and_no_line_is_too_long(name: str, width: int) -> None:
    table = EVERY[name]
    lines = lines_of(table, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    cells = Counter(word for row in table.rows for cell in row[table.keys :] for word in words(cell))
    heads = Counter(word for line in lines if "─" not in line for word in words(line))
    assert not cells - heads, f"cut, or left out: {cells - heads}"
    numbers = Counter(NUMBER.findall(" ".join(cell for row in table.rows for cell in row)))
    assert not numbers - Counter(NUMBER.findall("\n".join(lines))), "a number of a name is folded"


@pytest.mark.parametrize("name", EVERY)
def test_what_fits_is_one_table_with_all_columns(name: str) -> None:
    table = EVERY[name]
    lines = lines_of(table, 1000)
    assert len([line for line in lines if "─" in line]) == 1
    assert len(lines) == 1 + len(table.rows) + max(column.header.count("\n") + 1 for column in table.table.columns)


def simple(*head: str, rows: int = 2, **options: Any) -> Fitted:
    table = plain_table()
    for number, name in enumerate(head):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    for row in range(rows):
        table.add_row(*(f"{name}{row}" for name in head))
    return Fitted(table, **options)


def test_columns_that_belong_together_stay_together_and_the_names_are_repeated() -> None:
    table = simple("name", "aaaa", "bbbb", "cccc", "dddd", together=(1, 2))
    assert [line.split() for line in lines_of(table, 20) if "─" not in line] == [
        *(["name", "aaaa"], ["name0", "aaaa0"], ["name1", "aaaa1"], []),
        *(["name", "bbbb", "cccc"], ["name0", "bbbb0", "cccc0"], ["name1", "bbbb1", "cccc1"], []),
        *(["name", "dddd"], ["name0", "dddd0"], ["name1", "dddd1"]),
    ], "name, aaaa and bbbb would fit, but bbbb belongs to cccc"


def test_long_names_stand_above_their_numbers() -> None:
    table = simple("a/long/name/that/leaves/no/room", "aaaa", "bbbb")
    assert [line for line in lines_of(table, 24) if "─" not in line] == [
        "   aaaa   bbbb",
        *("a/long/name/that/leaves/", "    no/room0", "  aaaa0  bbbb0"),
        *("a/long/name/that/leaves/", "    no/room1", "  aaaa1  bbbb1"),
    ]


def test_names_that_would_be_repeated_in_many_tables_stand_above_too() -> None:
    few, many = (simple("a name of 16 let", *columns) for columns in (("aaaa", "bbbb"), ("aaaa", "bbbb", "cccc")))
    assert sum("─" in line for line in lines_of(few, 24)) == 2, "as often as they would stand above"
    assert sum("─" in line for line in lines_of(many, 24)) == 1
    assert lines_of(many, 24)[2:] == [
        "a name of 16 let0",
        "  aaaa0  bbbb0  cccc0",
        "a name of 16 let1",
        "  aaaa1  bbbb1  cccc1",
    ]


def test_a_row_without_numbers_is_not_repeated() -> None:
    table = plain_table()
    for name in ("name", "aaaa", "bbbb"):
        table.add_column(name, no_wrap=True)
    table.add_row("one", "a" * 9, "b" * 9)
    table.add_row("other", "no number")
    assert [line.split()[0] for line in lines_of(Fitted(table), 20) if line and "─" not in line] == [
        *("name", "one", "other"),
        *("name", "one"),
    ]


def test_a_cell_that_is_wider_than_the_terminal_is_broken_between_its_words() -> None:
    table = plain_table()
    for name in ("name", "what"):
        table.add_column(name, no_wrap=True)
    table.add_row("one", "copy 31.25 GB/s and then read 29.75 GB/s")
    assert lines_of(Fitted(table), 24) == ["one", "  what: copy 31.25 GB/s", "    and then read 29.75", "    GB/s"]


@pytest.mark.parametrize(
    "line,lines",
    [
        ("short", ["short"]),
        ("", [""]),
        ("two words and 12,345.6 more", ["two words and", "    12,345.6 more"]),
        ("gone: mini-64/text/per_token 1x32", ["gone: mini-64/text/", "    per_token 1x32"]),
        ("0123456789012345678901234", ["0123456789012345678901234"]),
    ],
)
def test_a_line_is_broken_at_spaces_and_after_slashes_only(line: str, lines: list[str]) -> None:
    assert broken(line, 20) == lines


SHOWN: dict[str, Callable[[], object]] = {
    "compare": lambda: suite_tables.print_to(terminal(), COMPARE),
    "roofline": lambda: roofline.show(ROOFLINE),
}


@pytest.mark.parametrize("columns", ["80", "60", None, "400", "0", "wide"])
@pytest.mark.parametrize("command", SHOWN)
def test_a_command_without_a_terminal_keeps_to_columns_and_to_100_without_it(
    command: str, columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    SHOWN[command]()
    out = capsys.readouterr().out
    width = {"80": 80, "60": 60, "0": 40}.get(columns or "", 100)
    assert width - 8 < max(map(len, out.splitlines())) <= width
    assert "…" not in out


@pytest.mark.parametrize("columns", [80, 60])
def test_every_line_of_a_diff_fits(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    after = slower()
    after["scaling"] = [{**one, "time": 3 * one["time"]} for one in after["scaling"]]  # some are new, some gone
    after["environment"]["commit"] = "1" * 40
    for name, one in {"a": SUITE, "b": after}.items():
        save(one, tmp_path / f"{name}.json")
    options = diff.Diff(tmp_path / "a.json", tmp_path / "b.json")
    assert diff.diff(options) == 0
    out = capsys.readouterr().out
    assert "gone: scaling/" in out
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out


@pytest.mark.parametrize("width", [100, 80, 60])
def test_every_line_of_the_suites_tables_fits(width: int) -> None:
    lines = suite_tables.show(SUITE, width)
    assert lines[0].startswith(f"{identity_in_words(SUITE['environment']['identity'])} of "), "the machine comes first"
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


@pytest.mark.slow
def test_a_terminal_of_80_columns_has_nothing_cut(tmp_path: Path) -> None:
    code = (
        "from bench.formatting import terminal; from bench.suite import tables; from bench.roofline import command; "
        "from tests.bench.compare import made_up_compare as made_up; "
        "tables.print_to(terminal(), made_up.compare_result()); command.show(made_up.roofline_result())"
    )
    out = on_a_terminal(80, code)
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert "\x1b[" in out, "colours, as on a terminal"
    assert 72 < max(map(len, lines)) <= 80
    assert "…" not in out
    shown = Counter(word for line in lines for word in words(line))
    for name in (*(f"compare {number}" for number in range(5)), "ceilings", "rates", "floors"):
        cells = Counter(word for row in EVERY[name].rows for cell in row[1:] for word in words(cell))
        assert not cells - shown, name


def on_a_terminal(columns: int, code: str) -> str:
    """What a Python program prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"TERM": "xterm"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        found += piece
    os.close(ours)
    assert started.wait() == 0, found.decode()
    return found.decode()
