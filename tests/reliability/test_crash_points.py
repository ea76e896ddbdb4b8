"""A save that stops at any operation leaves the newest complete checkpoint loadable; the next save cleans up."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from reference.checkpoints.checkpoint import Checkpoint, CheckpointError, load_newest, save
from tests.reliability.disk import Disk, Stopped
from tests.reliability.state import assert_equal, checkpoint_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see what an fsync is of")

# what is there, what is saved
SITUATIONS: dict[str, tuple[list[Checkpoint], Checkpoint]] = {
    "first": ([], checkpoint_at(1)),
    "next": ([checkpoint_at(1), checkpoint_at(2)], checkpoint_at(3)),
    "again": ([checkpoint_at(1), checkpoint_at(2, flavour="old")], checkpoint_at(2, flavour="new")),
}


@pytest.fixture(scope="module", params=SITUATIONS)
def situation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a situation and a run folder in which it is about to be saved."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    run.mkdir()
    for checkpoint in SITUATIONS[request.param][0]:
        save(run, checkpoint)
    return request.param, run


def stop(run: Path, checkpoint: Checkpoint, at: int | None, half: bool, power: bool) -> list[str]:
    """Save until the disk stops there; returns the operations that were begun."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, at, half)
        try:
            save(run, checkpoint)
        except Stopped:
            pass
        else:
            assert at is None, f"the save did not notice that operation {at} never happened"
    if power:
        disk.cut_power()
    return disk.operations


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint, None if there is none yet; a damaged one anywhere on the way fails the test."""
    if not list(run.glob("step-*")):
        with pytest.raises(CheckpointError, match=r"not finished writing its first|no checkpoint and no run"):
            load_newest(run)
        return None
    checkpoint, reports = load_newest(run)
    assert reports == []
    return checkpoint


def check(run: Path, name: str, where: str) -> bool:
    """Assert that the newest checkpoint is the old or the new one; returns whether it is the new one."""
    before, saving = SITUATIONS[name]
    found = newest(run)
    if found is None:
        assert not before, f"{where}: nothing is left"
        return False
    is_new = (found.step, found.run) == (saving.step, saving.run)
    assert_equal(found, saving if is_new else before[-1])
    return is_new


def check_next_save_tidies_up(run: Path, where: str) -> None:
    """Fail unless after another save that and the newest before it are there, and nothing else."""
    before = newest(run)
    save(run, checkpoint_at(4))
    assert_equal(load_newest(run)[0], checkpoint_at(4))
    expected = [f"step-{checkpoint.step:06d}" for checkpoint in (before, checkpoint_at(4)) if checkpoint]
    left = sorted(path.name for path in run.iterdir())
    assert left == expected, f"{where}: {left} after the next save"


@pytest.mark.parametrize(
    "half, power",
    [
        pytest.param(False, False, id="between-killed"),
        pytest.param(False, True, id="between-power-cut", marks=pytest.mark.slow),
        pytest.param(True, False, id="within-killed", marks=pytest.mark.slow),
        pytest.param(True, True, id="within-power-cut"),
    ],
)
def test_a_save_that_stops_anywhere_loses_nothing(
    situation: tuple[str, Path], tmp_path: Path, half: bool, power: bool
) -> None:
    name, start = situation
    saving = SITUATIONS[name][1]
    operations = stop(shutil.copytree(start, tmp_path / "whole"), saving, None, half, False)
    assert {"mkdir", "write", "fsync", "rename"} < set(operations), operations
    arrived = []
    for at, operation in enumerate(operations):
        where = f"{name}, stopped {'within' if half else 'before'} operation {at} ({operation})"
        run = shutil.copytree(start, tmp_path / str(at))
        stop(run, saving, at, half, power)
        arrived.append(check(run, name, where))
        check_next_save_tidies_up(run, where)
    assert arrived == sorted(arrived), f"{name}: the new one was there and went again: {arrived}"
    assert arrived[-1] or name == "first", f"{name}: the last operation is not a tidying one"
    assert not arrived[0]


@pytest.mark.slow
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power-cut"])
def test_a_second_save_that_stops_at_a_name_after_a_first_one_stopped_anywhere_loses_nothing(
    situation: tuple[str, Path], tmp_path: Path, power: bool
) -> None:
    name, start = situation
    saving = SITUATIONS[name][1]
    operations = stop(shutil.copytree(start, tmp_path / "whole"), saving, None, False, False)
    for first in range(len(operations)):
        once = shutil.copytree(start, tmp_path / "once")
        stop(once, saving, first, True, power)
        had = check(once, name, f"{name}, stopped at {first}")
        again = stop(shutil.copytree(once, tmp_path / "twice"), saving, None, False, False)
        shutil.rmtree(tmp_path / "twice")
        for second in (at for at, operation in enumerate(again) if operation in ("rename", "rmtree")):
            where = f"{name}, stopped within {first} and then within {second}"
            run = shutil.copytree(once, tmp_path / "twice")
            stop(run, saving, second, True, power)
            has = check(run, name, where)
            assert has or not had, f"{where}: the new one was there and went again"
            check_next_save_tidies_up(run, where)
            shutil.rmtree(run)
        shutil.rmtree(once)


def test_files_and_folder_are_forced_out_before_the_rename_and_the_name_before_the_old_go(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        save(run, checkpoint_at(step))
    operations = stop(run, checkpoint_at(3), None, False, False)
    # six files and their folder, its name, the parent; then the oldest loses its name and goes
    assert [name for name in operations if name not in ("write", "copymode", "mkdir")] == (
        ["fsync"] * 7 + ["rename", "fsync", "rename", "rmtree"]
    )
