"""Save and load: content, removal of old checkpoints, and paths."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from reference import GPT
from reference.checkpoints.checkpoint import (
    FILES,
    MODEL,
    RUN,
    Checkpoint,
    CheckpointError,
    load,
    load_newest,
    open_path,
    save,
)
from reference.checkpoints.manifest import NAME as MANIFEST
from reference.training.adamw import AdamW
from tests.reliability.state import CONFIG, assert_equal, checkpoint_at


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_checkpoint_comes_back_to_the_last_bit(tmp_path: Path, bias: bool, dtype: torch.dtype) -> None:
    written = checkpoint_at(3, dataclasses.replace(CONFIG, bias=bias), dtype)
    written.model["wte.weight"][0, :4] = torch.tensor([-0.0, torch.nan, torch.inf, 1e-40])
    folder = save(tmp_path / "runs" / "first", written)
    assert folder == tmp_path / "runs" / "first" / "step-000003"
    assert names(folder) == sorted((*FILES, MANIFEST))
    assert_equal(load(folder), written)
    assert list(load(folder).model) == list(written.model), "the order of reference.GPT is lost"


def test_a_checkpoint_without_optimizer_is_one_too(tmp_path: Path) -> None:
    written = dataclasses.replace(checkpoint_at(0), optimizer={})
    assert_equal(load(save(tmp_path, written)), written)


def test_a_model_and_its_optimizer_go_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG).eval()  # dropout has a test of its own, in the training loop
    optimizer = AdamW(model)
    ids = torch.randint(CONFIG.vocab_size, (4, 2, CONFIG.block_size))

    def train(model: GPT, optimizer: AdamW, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        model.loss(batch, batch).backward()
        optimizer.step()

    train(model, optimizer, ids[0])
    train(model, optimizer, ids[1])
    save(tmp_path, Checkpoint(2, CONFIG, model.state_dict(), optimizer.state_dict(), {}, {}))
    train(model, optimizer, ids[2])
    train(model, optimizer, ids[3])

    checkpoint = load(tmp_path / "step-000002")
    other = GPT(checkpoint.config).eval()
    other.load_state_dict(checkpoint.model)
    resumed = AdamW(other)
    resumed.load_state_dict(checkpoint.optimizer)
    train(other, resumed, ids[2])
    train(other, resumed, ids[3])
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", checkpoint_at(5)), save(tmp_path / "b", checkpoint_at(5))
    shuffled = checkpoint_at(5)
    shuffled = dataclasses.replace(shuffled, model=dict(reversed(shuffled.model.items())))
    third = save(tmp_path / "c", shuffled)
    again = save(tmp_path / "d", load(first))
    for name in (*FILES, MANIFEST):
        for other in (second, third, again):
            assert (other / name).read_bytes() == (first / name).read_bytes(), f"{other.parent.name}: {name}"


def test_what_was_read_does_not_change_with_the_files(tmp_path: Path) -> None:
    folder = save(tmp_path, checkpoint_at(5))
    read = load(folder)
    for path in folder.glob("*.safetensors"):
        with path.open("r+b") as file:  # in place: a memory-mapped tensor would follow
            file.seek(-64, os.SEEK_END)
            file.write(bytes(range(64)))
    assert_equal(read, checkpoint_at(5))


def test_the_files_can_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = save(tmp_path, checkpoint_at(1))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys((*FILES, MANIFEST), 0o640)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay_and_the_older_go(tmp_path: Path, keep: int) -> None:
    for step in (0, 5, 10, 999_999, 1_000_000):
        save(tmp_path, checkpoint_at(step), keep=keep)
    expected = ["step-000010", "step-999999", "step-1000000"][-keep:]
    assert names(tmp_path) == sorted(expected)
    assert load_newest(tmp_path)[0].step == 1_000_000


def test_keep_below_1_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^keep = 0: give how many checkpoints to keep, at least 1$"):
        save(tmp_path / "run", checkpoint_at(1), keep=0)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"step": -1}, "step = -1: give a whole number of at least 0"),
        ({"step": 1.5}, "step = 1.5: give a whole number of at least 0"),
        ({"run": {"step": 3}}, "run: 'step' is taken from Checkpoint.step, leave it out"),
        ({"run": {"loss": float("nan")}}, "run: JSON cannot say this"),
        ({"tokenizer": {"characters": {"a"}}}, "tokenizer: JSON cannot say this"),
        ({"model": {}}, "canonical state dict: 'wte.weight' is missing"),
        ({"config": dataclasses.replace(CONFIG, n_layer=2)}, "'h.1.ln_1.weight' is missing"),
        (
            {"model": {n: t.to(torch.int32) for n, t in checkpoint_at(1).model.items()}},
            "'transformer.wte.weight' is torch.int32; weights are floating-point numbers",
        ),
    ],
)
def test_what_cannot_be_a_checkpoint_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is compared below
        save(tmp_path / "run", dataclasses.replace(checkpoint_at(1), **change))  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, checkpoint_at(step), keep=9)
    (tmp_path / "step-000003" / RUN).unlink()
    save(tmp_path, checkpoint_at(4), keep=2)
    assert names(tmp_path) == ["step-000002", "step-000003", "step-000004"]
    save(tmp_path, checkpoint_at(5), keep=2)
    assert names(tmp_path) == ["step-000004", "step-000005"]


def test_going_on_from_an_earlier_step_leaves_the_later_ones_alone(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, checkpoint_at(step), keep=9)
    save(tmp_path, checkpoint_at(15), keep=1)
    assert names(tmp_path) == ["step-000015", "step-000020", "step-000030"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(1))
    save(tmp_path, checkpoint_at(2, flavour="old"))
    save(tmp_path, checkpoint_at(2, flavour="new"))
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert_equal(load(tmp_path / "step-000002"), checkpoint_at(2, flavour="new"))


def test_files_of_others_in_a_run_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "loss.png").touch()
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-000007-best").mkdir()
    for step in (1, 2, 3):
        save(tmp_path, checkpoint_at(step), keep=1)
    assert names(tmp_path) == ["loss.png", "step-000003", "step-000007-best", "step-7"]


def test_what_a_dead_writer_left_is_removed_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    from reference.checkpoints.atomic_folder import hidden_name, host_name

    living = hidden_name(tmp_path / "step-000009")
    dead = living.with_name(living.name.replace(f"@{os.getpid()}@", "@999999999@"))
    reborn = living.with_name(living.name + "0")  # our pid, but from before we were born
    far = living.with_name(living.name.replace(host_name(), "elsewhere"))
    far_and_old = living.with_name(living.name.replace(host_name(), "elsewhere") + "0")
    for folder in (living, dead, reborn, far, far_and_old):
        folder.mkdir()
        (folder / MODEL).write_bytes(b"half")
    os.utime(reborn, (0, 0))
    os.utime(far_and_old, (0, 0))
    save(tmp_path, checkpoint_at(1))
    assert names(tmp_path) == sorted([living.name, far.name, "step-000001"])


def test_open_path_takes_a_run_and_a_checkpoint_wherever_it_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        save(run, checkpoint_at(step))
    shutil.copytree(run / "step-000001", tmp_path / "best")
    (tmp_path / "latest").symlink_to(run / "step-000002")
    for path, step in {run: 2, run / "step-000001": 1, tmp_path / "best": 1, tmp_path / "latest": 2}.items():
        checkpoint, reports = open_path(path)
        assert (checkpoint.step, reports) == (step, []), path
    monkeypatch.chdir(run / "step-000001")
    assert open_path(Path("."))[0].step == 1
    assert open_path(Path(".."))[0].step == 2


@pytest.mark.parametrize("opened", [open_path, load, load_newest], ids=["open_path", "load", "load_newest"])
@pytest.mark.parametrize(
    "path, what",
    [
        ("nowhere", "no such folder"),
        ("file", "is a file, not a folder"),
        ("empty", "no checkpoint and no run"),
        ("begun", "a run that has not finished writing its first checkpoint"),
    ],
)
def test_a_folder_that_is_none_is_told_what_a_checkpoint_holds(
    tmp_path: Path, opened: object, path: str, what: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / ".unfinished@1@host@00000000").mkdir(parents=True)
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path / path)  # type: ignore[operator]
    message = str(error.value)
    assert message.startswith(f"{tmp_path / path}: {what}"), message
    assert "\n" not in message
    for name in ("step-NNNNNN", *FILES, MANIFEST):
        assert name in message, message


def test_a_run_is_not_taken_for_one_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, checkpoint_at(1))
    with pytest.raises(CheckpointError, match=f"a run, not a checkpoint of it such as {folder};"):
        load(tmp_path)


def test_files_and_dangling_links_that_are_named_like_checkpoints_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(1))
    (tmp_path / "step-000002").touch()
    (tmp_path / "step-000003").symlink_to("nowhere")
    assert load_newest(tmp_path)[0].step == 1
    with pytest.raises(CheckpointError, match="step-000002: is a file, not a folder"):
        open_path(tmp_path / "step-000002")


def test_a_run_that_may_not_be_looked_into_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be looked into \(Permission denied\)"):
        load_newest(tmp_path)


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(1))
    (tmp_path / "step-000001").rename(tmp_path / "step-000005")
    with pytest.raises(CheckpointError, match=r"run.json: is of step 1, which is not what the folder is named"):
        load(tmp_path / "step-000005")


def test_an_old_one_that_cannot_be_removed_is_logged_and_the_save_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, checkpoint_at(1))

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        save(tmp_path, checkpoint_at(2), keep=1)
    assert "step-000001 could not be removed (Permission denied)" in caplog.text
    assert load_newest(tmp_path)[0].step == 2
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-000002"]


def test_run_json_says_the_step_and_everything_of_the_run(tmp_path: Path) -> None:
    written = checkpoint_at(12)
    text = (save(tmp_path, written) / RUN).read_text(encoding="utf-8")
    assert json.loads(text) == {"step": 12, **written.run}
