"""A run's folder, its log and its settings."""

import dataclasses
import json
import math
from contextlib import suppress
from pathlib import Path

import pytest

from reference.checkpoints.run_folder import Log, check_out, new_run_folder, newest_run, read_log
from reference.cli.options import FIXED, Train, check_resumable
from reference.training.loop import Record

RECORDS: list[Record] = [
    {"step": 0, "validation_loss": 3.0},
    {"step": 2, "loss": 2.5},
    {"step": 4, "loss": 2.25},
    {"step": 4, "validation_loss": 2.0},
    {"step": 6, "loss": 1.5},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log = Log(tmp_path, 0)
    for record in RECORDS:
        log.append(record)
    log.close()
    return tmp_path


def test_a_log_is_read_as_it_was_written(run: Path) -> None:
    assert read_log(run) == RECORDS


def test_each_record_is_in_the_file_as_soon_as_it_is_appended(run: Path) -> None:
    log = Log(run, 6)
    log.append({"step": 8, "loss": 1.25})
    assert read_log(run)[-1] == {"step": 8, "loss": 1.25}
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a device that is always full")
def test_a_full_disk_is_reported_with_the_name_of_the_log(run: Path) -> None:
    log = Log(run, 6)
    log.close()
    log._file = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115  # closed below
    with pytest.raises(OSError, match=f"No space left on device: '{run / 'log.jsonl'}'"):
        log.append({"step": 8, "loss": 1.25})
    with suppress(OSError):  # what it still holds
        log.close()


@pytest.mark.parametrize("step, kept, validated", [(6, 5, {0, 4}), (5, 4, {0, 4}), (3, 2, {0}), (0, 1, {0})])
def test_a_run_that_goes_on_drops_what_was_logged_after_its_checkpoint(
    run: Path, step: int, kept: int, validated: set[int]
) -> None:
    log = Log(run, step)
    log.close()
    assert read_log(run) == RECORDS[:kept]
    assert log.validated == validated
    assert [path.name for path in run.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_last_line_that_a_crash_cut_short_is_left_out(run: Path, cut: int) -> None:
    path = run / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_log(run) == RECORDS[:-1]


def test_a_damaged_line_in_the_middle_is_refused_by_its_number(run: Path) -> None:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines()
    for spoilt in ("{", "[]", '{"loss": 1}', '{"step": "2"}'):
        path.write_text("\n".join([lines[0], spoilt, *lines[2:]]) + "\n")
        with pytest.raises(ValueError, match="line 2: is not a record of a training log"):
            read_log(run)


def test_two_runs_that_begin_in_the_same_second_get_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [new_run_folder("books/emma.txt", None) for _ in range(30)]
    assert len(set(folders)) == 30
    assert all(folder.is_dir() and folder.name.startswith("emma-") for folder in folders)


def test_an_empty_folder_may_become_a_run_and_a_full_one_may_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert new_run_folder("nursery", tmp_path / "empty") == tmp_path / "empty"
    assert new_run_folder("nursery", tmp_path / "new" / "one") == tmp_path / "new" / "one"
    (tmp_path / "empty" / "x").write_text("")
    for folder in ("empty", "new"):
        with pytest.raises(ValueError, match="is not empty; give a folder that is new or empty"):
            check_out(tmp_path / folder)


def test_the_newest_run_needs_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "not-a-run").mkdir(parents=True)
    with pytest.raises(ValueError, match="no run in 'runs' of the current directory"):
        newest_run()


def test_settings_survive_json_whatever_their_values() -> None:
    settings = Train(corpus="nursery", betas=(0.5, 0.75), clip=math.inf, bias=False, warmup=7, seed=2**62)
    values = json.loads(json.dumps(settings.to_json(), allow_nan=False))
    assert Train.from_json(values) == settings


def test_settings_of_the_other_package_are_read_as_far_as_they_are_known() -> None:
    @dataclasses.dataclass(frozen=True)
    class More(Train):
        recipe: str = "full"
        """Which rungs to use"""

    saved = More(steps=7, recipe="plain")
    assert Train.from_json(saved.to_json()) == Train(steps=7)
    assert More.from_json(Train(steps=7).to_json()) == More(steps=7, recipe="full")
    assert More.from_json(saved.to_json()) == saved


def test_completed_settings_leave_nothing_to_be_worked_out_and_stay_the_same_when_completed_again() -> None:
    settings = Train(steps=50, learning_rate=2e-3)
    complete = settings.completed(settings.shape(65), "char")
    left = {name for name, value in complete.to_json().items() if value is None}
    assert left == {"threads", "eval_windows", "init_from"}, "None means these: torch's choice, all, fresh weights"
    assert complete.warmup == 2
    assert complete.lowest_learning_rate == pytest.approx(2e-4)
    assert complete.completed(complete.shape(65), "char") == complete
    assert complete.shape(65) == settings.shape(65)


@pytest.mark.parametrize(
    "settings, rate",
    [
        (Train(), 0.5 / 128),
        (Train(size="gpt2"), 0.5 / 768),
        (Train(size="gpt2", width=1536), 0.5 / 1536),
        (Train(width=16), 4e-3),
        (Train(init_from="gpt2"), 3e-5),
        (Train(init_from="gpt2", learning_rate=1e-4), 1e-4),
    ],
)
def test_the_learning_rate_suits_the_width_unless_it_is_given(settings: Train, rate: float) -> None:
    assert settings.peak() == rate
    assert settings.floor() == rate / 10


def test_what_may_change_in_a_resumed_run_changes() -> None:
    settings = Train()
    saved = settings.completed(settings.shape(65), "char")
    may_change = {field.name for field in dataclasses.fields(Train)} - set(FIXED) - {"out", "resume"}
    assert may_change == {
        *("steps", "learning_rate", "lowest_learning_rate", "warmup", "weight_decay", "betas", "clip", "dropout"),
        *("device", "threads", "eval_interval", "eval_windows", "log_interval", "checkpoint_interval", "keep"),
    }
    for name in may_change:
        check_resumable(saved, dataclasses.replace(saved, **{name: 3}))  # type: ignore[arg-type]
    for name in FIXED:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .* with --resume: the run has"):
            check_resumable(saved, dataclasses.replace(saved, **{name: "other"}))  # type: ignore[arg-type]
