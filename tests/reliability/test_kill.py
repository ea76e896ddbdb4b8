"""A saving process is killed at random, and read while it saves: readers find the newest complete checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference.checkpoints.checkpoint import load_newest, save
from tests.reliability.state import assert_equal
from tests.reliability.writer import Writers, state_at

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")

KILLS = 10


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with Writers() as writers:
        yield writers


def assert_hashes_right(folder: Path) -> None:
    """By hand, so that a check that passes everything would be seen."""
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert listed.keys() == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, entry in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_after_each_of_ten_random_kills_the_newest_complete_one_is_there(writers: Writers, memory_path: Path) -> None:
    seed = random.randrange(2**32)
    delays = random.Random(seed)
    run, saved, inside = memory_path / "run", 0, 0
    for kill in range(3 * KILLS):
        if kill >= KILLS and inside:  # two of three come inside a save; go on until one did
            break
        writers.start(run, saved + 1)
        if kill == 0:
            writers.wait_for_a_save()
        time.sleep(delays.uniform(0.0, 0.2))
        saved = writers.kill() or saved
        where = f"seed {seed}, kill {kill}, after step {saved} was saved"
        left = sorted(path.name for path in run.iterdir())
        inside += any(name.startswith(".unfinished") for name in left)
        checkpoint, reports = load_newest(run)
        assert reports == [], f"{where}: {left}"
        assert checkpoint.step in (saved, saved + 1), f"{where}: step {checkpoint.step} is the newest; {left}"
        assert_equal(checkpoint, state_at(checkpoint.step))
        newest = run / f"step-{checkpoint.step:06d}"
        assert_hashes_right(newest if newest.exists() else newest.with_name(f"{newest.name}.replaced"))
        saved = checkpoint.step
    assert inside >= 1, f"seed {seed}: none of {3 * KILLS} kills came inside a save, so nothing was shown"
    save(run, state_at(saved + 1))
    left = sorted(path.name for path in run.iterdir())
    assert left == [f"step-{step:06d}" for step in (saved, saved + 1)], f"seed {seed}: {left}"


@pytest.mark.slow
def test_a_reader_beside_a_writer_sees_none_but_complete_ones(writers: Writers, memory_path: Path) -> None:
    run = memory_path / "run"
    writers.start(run, 1)
    writers.wait_for_a_save()
    steps: list[int] = []
    while len(steps) < 50 or len(set(steps)) < 4:  # of many savings, however fast each of the two is
        checkpoint, reports = load_newest(run)
        assert reports == [], f"after {len(steps)} reads"
        assert_equal(checkpoint, state_at(checkpoint.step))
        steps.append(checkpoint.step)
    writers.kill()
    assert steps == sorted(steps), "an older one was read after a newer one"
