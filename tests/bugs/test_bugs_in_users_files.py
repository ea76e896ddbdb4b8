"""Each of the 43 public bugs is caught in a user's file, by a command that names it; the same files without it pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bugs.measure_users_files import measured
from tests.bugs.users_files import BUGS, FILES, RIGHT, UsersFile
from tests.bugs.users_table import read_rows, section, summary

AGAIN = "out of date: run `python -m tests.bugs.measure_users_files`"
QUICK = ("empty slots", "first shard", "mask of completions")


def id_of(file: UsersFile) -> str:
    return f"{file.bug}: {file.what}, {file.kind}"


def marks(file: UsersFile) -> list[pytest.MarkDecorator]:
    """The default tests are a few that take a second."""
    if any(words in file.what for words in QUICK):
        return []
    return [pytest.mark.multiproc] if "--ranks" in file.options else [pytest.mark.slow]


@pytest.mark.parametrize("file", [pytest.param(one, id=id_of(one), marks=marks(one)) for one in FILES])
def test_a_public_bug_in_a_users_file_is_caught_and_named_first(file: UsersFile) -> None:
    row = measured(file)
    assert row.caught, row
    assert row.named, row


@pytest.mark.parametrize("file", [pytest.param(one, id=id_of(one), marks=marks(one)) for one in RIGHT])
def test_a_right_file_passes(file: UsersFile) -> None:
    row = measured(file)
    assert (row.status, row.said) == (0, ""), row


def test_every_public_bug_has_a_users_file_and_every_change_fits(tmp_path: Path) -> None:
    assert {one.bug for one in FILES} == set(range(1, BUGS + 1))
    assert len({id_of(one) for one in FILES}) == len(FILES)
    for one in FILES:
        compile(one.source(), "planted", "exec")
    assert len({one.source() for one in FILES}) == len({(one.source(), one.kind) for one in FILES})


def test_the_table_in_docs_has_every_file_in_order() -> None:
    keys = [(one.bug, one.what, one.kind, one.shown) for one in (*FILES, *RIGHT)]
    assert [row.key for row in read_rows()] == keys, AGAIN


def test_by_the_table_all_bugs_are_caught_and_nine_in_ten_named_and_no_right_file_is_wrong() -> None:
    rows = read_rows()
    assert summary(rows) in section(rows).replace("\n", " ")
    caught, named = map(int, re.findall(r"(\d+) are caught in users' files, (\d+) with", summary(rows))[0])
    assert caught == BUGS
    assert named >= 0.9 * BUGS
    assert all(row.status == 0 for row in rows if not row.bug)
