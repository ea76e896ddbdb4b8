"""A disk that fails during a save costs only that save."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reference.checkpoints import checkpoint as module
from reference.checkpoints.checkpoint import CheckpointError, load_newest, save
from tests.reliability.state import assert_equal, checkpoint_at


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1, 2):
        save(tmp_path / "run", checkpoint_at(step))
    return tmp_path / "run"


def fails_cleanly(run: Path, step: int, reason: str) -> None:
    """Fail unless a save now is one clear error, and everything is as before."""
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    with pytest.raises(CheckpointError) as error:
        save(run, checkpoint_at(step, flavour="new"))
    assert re.fullmatch(
        rf"{run}/step-{step:06d}: could not be written \([^\n]*{reason}[^\n]*\); complete ones beside it are "
        "unharmed: make room or give another folder, then resume",
        str(error.value),
    ), str(error.value)
    after = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert after == before
    assert sorted(path.name for path in run.iterdir()) == ["step-000001", "step-000002"]
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, checkpoint_at(2))
    assert reports == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse, in this process, every byte of a file beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("step", [2, 3], ids=["again", "next"])
@pytest.mark.parametrize("size", [0, 100, 2_000, 8_000], ids=lambda size: f"{size} bytes")
def test_a_write_that_the_system_refuses_leaves_what_was_there(run: Path, step: int, size: int) -> None:
    # 0 stops the first text, 100 within it, 2,000 the weights, 8,000 the optimizer, which is the largest
    sizes = {path.name: path.stat().st_size for path in (run / "step-000002").iterdir()}
    assert 2_000 < sizes["model.safetensors"] < 8_000 < sizes["optimizer.safetensors"], sizes
    with largest_file(size):
        fails_cleanly(run, step, "File too large")
    save(run, checkpoint_at(3))
    assert_equal(load_newest(run)[0], checkpoint_at(3))


@pytest.mark.parametrize(
    "step, broken, calls",
    [
        (3, "mkdir", 1),
        (3, "write_bytes", 4),  # three texts and the manifest
        (3, "save_file", 2),  # weights and moments
        (3, "fsync", 7),  # six files and their folder
        (3, "rename", 1),  # into place
        (2, "fsync", 7),
        (2, "rename", 2),  # the old one aside, the new one into place
    ],
)
def test_no_space_left_at_any_operation_leaves_what_was_there(
    run: Path, step: int, broken: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = {"write_bytes": Path, "save_file": module}.get(broken, os)
    real = getattr(owner, broken)
    called = 0

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        called += 1
        if called == number + 1:  # at this one only: what tidies up finds a disk that works
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    for number in range(calls):
        called = 0
        with monkeypatch.context() as patch:
            patch.setattr(owner, broken, full)
            fails_cleanly(run, step, "No space left on device")
        assert called > number


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"run/step-000001: could not be written \(File exists\)"):
        save(tmp_path / "file" / "run", checkpoint_at(1))


def test_a_folder_that_the_system_cannot_force_out_by_name_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    assert_equal(load_newest(save(tmp_path / "run", checkpoint_at(1)).parent)[0], checkpoint_at(1))
