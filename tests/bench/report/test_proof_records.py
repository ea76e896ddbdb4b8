"""The tables of docs/parity.md and docs/bugs.md are read strictly: what is no longer as it was is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.proof_records import read_bugs, read_parity, tables_of
from bench.settings import DOCS
from tests.bugs.mutants import MUTANTS

PARITY, BUGS = (DOCS / "parity.md").read_text(), (DOCS / "bugs.md").read_text()


def test_the_errors_of_every_recipe_in_every_precision() -> None:
    tables = read_parity(DOCS / "parity.md").tables
    assert list(tables) == ["float64", "float32", "bfloat16"]
    for head, rows in tables.values():
        assert head == ("recipe", "logits", "loss", "gradient", "20 steps", "update")
        assert {"fused_qkv", "sdpa", "full"} <= {row[0] for row in rows}
        assert not {"kv_cache", "ddp"} & {row[0] for row in rows}, "proven elsewhere"
        assert all(len(row) == 6 for row in rows)


def test_every_planted_bug_is_there() -> None:
    bugs = read_bugs(DOCS / "bugs.md")
    assert bugs.summary.startswith(f"{len(MUTANTS)} of {len(MUTANTS)} mutants are caught")
    assert [row[1] for row in bugs.caught[1]] == [mutant.name for mutant in MUTANTS]
    assert sum(int(row[3]) for row in bugs.checks[1]) == len(MUTANTS)
    assert bugs.usual[0][:2] == ("#", "bug")
    assert {cell for row in bugs.usual[1] for cell in row[2:]} == {"seen", "-"}


@pytest.mark.parametrize(
    "text,message",
    [
        ("", r"parity.md: has no table of errors, write it again by python -m pytest tests/parity"),
        (PARITY.replace("| 20 steps |", "| 30 steps |"), r"the table under 'float64' has the columns recipe, logits,"),
        (PARITY.replace("4.0e-07 (0.08)", "very little", 1), r"'very little' of plain in float32 is no error"),
        (PARITY.replace(" (0.08) |", " (0.08) | 1 |", 1), r"parity.md, line \d+: has 9 cells, the table 8, write it"),
    ],
)
def test_a_table_of_errors_that_is_another_one_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "parity.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_parity(path)


@pytest.mark.parametrize(
    "text,message",
    [
        (BUGS.replace("| # | bug | met in |", "| # | bug | seen in |"), r"bugs.md: has a table of #, bug, seen in,"),
        (BUGS.partition("## The checks")[0], r"bugs.md: has 2 tables, not 3, write it again by python -m tests.bugs"),
        (
            BUGS.replace("in float64? | 16 |", "in float64? | many |"),
            r"'many' mutants of the check logits are no number",
        ),
        (b"\xff\xfe", r"bugs.md: is no text \("),
    ],
)
def test_a_record_of_planted_bugs_of_another_form_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bugs.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_bugs(path)


def test_bars_inside_cells_and_empty_cells_stay() -> None:
    text = "# one\n\n| a | b |\n|---|---|\n| x \\| y |  |\n| - | -- |\n"
    assert tables_of(Path("x.md"), text) == {"one": (("a", "b"), (("x | y", ""), ("-", "--")))}
