"""A reader that a writer overtakes starts again, and never mixes two checkpoints."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reference.checkpoints import checkpoint as module
from reference.checkpoints import manifest
from reference.checkpoints.atomic_folder import REPLACED
from reference.checkpoints.checkpoint import CheckpointError, load, load_newest, open_path, save
from tests.reliability.state import assert_equal, checkpoint_at

OLD = checkpoint_at(2, flavour="old")
NEW = dataclasses.replace(checkpoint_at(2, flavour="new"), model=checkpoint_at(7).model)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "run", checkpoint_at(1))
    save(tmp_path / "run", OLD)
    return tmp_path / "run"


def once_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, write: Callable[[], object]) -> list[str]:
    """Let a writer come in after the next call of `owner.name`; the list returned is no longer empty then."""
    real, written = getattr(owner, name), []

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if not written:
            written.append(name)
            write()
        return result

    monkeypatch.setattr(owner, name, overtaken)
    return written


@pytest.mark.parametrize("opened", [lambda run: load_newest(run)[0], lambda run: load(run / "step-000002")])
@pytest.mark.parametrize(
    "owner, name", [(manifest, "read_manifest"), (manifest, "sha256"), (module, "verify"), (module, "load_file")]
)
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(
    run: Path, owner: Any, name: str, opened: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = once_after(monkeypatch, owner, name, lambda: save(run, NEW))
    assert_equal(opened(run), NEW)
    assert written


@pytest.mark.parametrize("owner, name", [(module, "step_folders"), (manifest, "read_manifest"), (module, "verify")])
def test_a_checkpoint_that_is_pruned_while_it_is_read_gives_way_to_the_newest(
    run: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = once_after(monkeypatch, owner, name, lambda: save(run, checkpoint_at(3), keep=1))
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, checkpoint_at(3))
    assert reports == []
    assert written


def once_between_two_openings(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> None:
    """safetensors opens a file and has torch open it again; torch says in its own way that it is gone."""
    real, written = module.load_file, []

    def overtaken(path: Path) -> Any:
        if written:
            return real(path)
        written.append(write())
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr(module, "load_file", overtaken)


@pytest.mark.parametrize(
    "newest, keep", [(checkpoint_at(3), 1), (NEW, 2)], ids=["it is pruned", "another is put in its place"]
)
def test_a_checkpoint_that_goes_away_between_the_two_openings_of_a_file_gives_way_too(
    run: Path, newest: Any, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_between_two_openings(monkeypatch, lambda: save(run, newest, keep=keep))
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, newest)
    assert reports == []


class Replacement:
    """The two renames of a writer that replaces step 2, to be done one at a time."""

    def __init__(self, run: Path, aside: Path) -> None:
        self.final = run / "step-000002"
        self.replaced = self.final.with_name(self.final.name + REPLACED)
        self.new = save(aside, NEW)

    def begin(self) -> None:
        self.final.rename(self.replaced)

    def end(self) -> None:
        self.new.rename(self.final)
        shutil.rmtree(self.replaced)


@pytest.fixture
def replacement(run: Path, tmp_path: Path) -> Replacement:
    return Replacement(run, tmp_path / "aside")


def listed_before(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> list[str]:
    """Let a writer come in when the names in a folder have been read, and nothing else yet."""
    real, written = Path.iterdir, []

    def overtaken(folder: Path) -> Any:
        paths = list(real(folder))
        if not written:
            written.append(folder.name)
            write()
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", overtaken)
    return written


def test_the_newest_is_not_passed_over_when_its_replacement_begins_after_the_listing(
    run: Path, replacement: Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = listed_before(monkeypatch, replacement.begin)
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, OLD)  # step 2, from where it was put aside
    assert reports == []
    assert written


def test_the_newest_is_not_passed_over_when_its_replacement_ends_after_the_listing(
    run: Path, replacement: Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacement.begin()
    written = listed_before(monkeypatch, replacement.end)
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, NEW)
    assert reports == []
    assert written


def test_a_link_to_nowhere_and_a_file_are_no_checkpoints_of_a_run(run: Path) -> None:
    (run / "step-000003").symlink_to(run / "nowhere")
    (run / "step-000004").write_text("")
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, OLD)
    assert reports == []


def test_what_else_goes_wrong_while_tensors_are_read_is_not_taken_for_a_file_that_is_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "load_file", fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        load_newest(run)


def test_a_run_that_is_removed_while_it_is_read_is_one_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once_after(monkeypatch, module, "step_folders", lambda: shutil.rmtree(run))
    with pytest.raises(CheckpointError, match=r"no such folder"):
        load_newest(run)


def test_a_checkpoint_whose_replacement_was_cut_short_is_read_under_its_name(run: Path) -> None:
    folder = run / "step-000002"
    folder.rename(run / f"step-000002{REPLACED}")
    assert_equal(load(folder), OLD)
    assert_equal(open_path(folder)[0], OLD)
    assert_equal(load_newest(run)[0], OLD)


def test_of_two_for_one_step_the_one_that_was_being_replaced_comes_second(run: Path) -> None:
    folder = run / "step-000002"
    folder.rename(run / f"step-000002{REPLACED}")
    (run / "aside").mkdir()
    save(run / "aside", NEW).rename(folder)
    assert_equal(load_newest(run)[0], NEW)
    (folder / "run.json").unlink()
    checkpoint, reports = load_newest(run)
    assert_equal(checkpoint, OLD)
    assert reports == [f"step-000002: run.json: missing; using step-000002{REPLACED}"]
