"""`train`: its files, its output, and exact resuming."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import reference.cli.train as command
from reference.checkpoints.checkpoint import load_newest
from reference.checkpoints.run_folder import read_log
from reference.cli.options import Train
from reference.cli.progress import Lines
from tests.reference.cli.conftest import HERE, SHORT, TINY, TRAIN, Cli

ROOT = Path(__file__).parents[3]
DROPOUT = ["--dropout", "0.2"]


def files_of_last_step(run: Path) -> dict[str, bytes]:
    """Weights and moments of the newest checkpoint."""
    newest = max(run.glob("step-*"))
    return {name: (newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def assert_same_run(run: Path, whole: Path) -> None:
    assert max(run.glob("step-*")).name == max(whole.glob("step-*")).name
    assert files_of_last_step(run) == files_of_last_step(whole), "weights or moments differ from the whole run's"
    validations = [[r for r in read_log(folder) if "validation_loss" in r] for folder in (run, whole)]
    assert validations[0] == validations[1]
    steps = [record["step"] for record in read_log(run) if "loss" in record]
    assert steps == sorted(set(steps)), f"the log repeats steps: {steps}"


def strike(monkeypatch: pytest.MonkeyPatch, at: int, blow: Callable[[], None]) -> None:
    """Call a function in the process after a step."""

    class Struck(Lines):
        def stepped(self, done: int) -> None:
            super().stepped(done)
            if done == at:
                blow()

    monkeypatch.setattr(command, "display", Struck)


@pytest.mark.usefixtures("whole_end")
def test_a_run_leaves_settings_log_picture_and_the_newest_checkpoints(cli: Cli, tmp_path: Path) -> None:
    result = cli(*TRAIN, "--keep", "3")
    assert result.status == 0
    assert result.err == ""
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("nursery-2")
    steps = {"step-000004", "step-000008", "step-000012"}
    assert {path.name for path in run.iterdir()} == steps | {"settings.json", "log.jsonl", "loss.png"}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((run / "settings.json").read_text())
    assert settings["corpus"] == "nursery"
    assert settings["width"] == 16
    assert settings["warmup"] == 0
    assert settings["learning_rate"] == 4e-3
    assert settings["lowest_learning_rate"] == 4e-4
    assert None not in (settings[name] for name in ("tokenizer", "size", "block", "dropout", "bias"))
    checkpoint, problems = load_newest(run)
    assert problems == []
    assert checkpoint.step == 12
    assert checkpoint.run["settings"] == settings
    assert {"package", "data", "versions"} < set(checkpoint.run)
    assert [r["step"] for r in read_log(run) if "validation_loss" in r] == [0, 5, 10, 12]


def test_a_run_says_what_it_does_where_things_are_and_what_to_type_next(cli: Cli, tmp_path: Path) -> None:
    result = cli(*TRAIN)
    (run,) = (tmp_path / "runs").iterdir()
    lines = result.out.splitlines()
    assert lines[0] == "model  1 layers, 2 heads, width 16, block 8, 3,872 parameters"
    assert lines[1].startswith("text   nursery: 491 tokens to train on, 55 to validate on, vocabulary 27 (char)")
    assert "on cpu with 1 thread, float32" in lines[2]
    assert lines[3] == f"run    runs/{run.name}"
    progress = [line for line in lines if line.startswith("step ")]
    assert progress[0].startswith("step 0/12  validation loss 3.")
    assert progress[1].startswith("step 2/12  loss ")
    assert progress[1].endswith(" left")
    assert "tokens/s" in progress[1]
    assert progress[-1].startswith("step 12/12  validation loss ")
    assert "a sample, temperature 0.8:" in lines
    assert lines[-2].startswith("validation loss ")
    assert f"In runs/{run.name}: loss.png, log.jsonl, settings.json and the checkpoint step-000012." in lines[-2]
    assert lines[-1] == "Next: python -m reference sample   or   python -m reference plot attention"
    assert "\x1b" not in result.out, "control codes where there is no terminal"
    assert "\r" not in result.out


def test_the_closing_line_names_a_run_that_lies_elsewhere(cli: Cli, tmp_path: Path) -> None:
    result = cli(*TRAIN, "--out", "my run")
    assert result.out.splitlines()[-1] == (
        "Next: python -m reference sample 'my run'   or   python -m reference plot attention 'my run'"
    )


def test_the_same_seed_gives_the_same_run_and_another_seed_another(cli: Cli) -> None:
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert cli(*TRAIN, *DROPOUT, "--seed", seed, "--out", out).status == 0
    assert files_of_last_step(Path("a")) == files_of_last_step(Path("b"))
    assert files_of_last_step(Path("a")) != files_of_last_step(Path("c"))


@pytest.mark.parametrize("at", [3, 4, 5, 8])  # between intervals, at a checkpoint, at a validation, at both logs
def test_ctrl_c_saves_and_the_resumed_run_equals_the_whole_one_bit_for_bit(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as struck:
        strike(struck, at, lambda: signal.raise_signal(signal.SIGINT))
        result = cli(*TRAIN, *DROPOUT, "--out", "run")
    assert result.status == 130
    assert result.out.splitlines()[-1] == (
        f"stopped after step {at}; resume with: python -m reference train --resume run"
    )
    assert "note: stopping after this step, with a checkpoint" in result.err
    assert signal.getsignal(signal.SIGINT) is before
    assert Path(f"run/step-{at:06d}").is_dir()
    result = cli("train", "--resume", "run")
    assert result.status == 0
    assert f"run    run, going on after step {at}" in result.out
    assert_same_run(Path("run"), trained)


def test_a_run_may_be_stopped_twice_by_different_signals(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at, kind, status in ((3, signal.SIGINT, 130), (9, signal.SIGTERM, 143)):
        with monkeypatch.context() as struck:
            strike(struck, at, lambda kind=kind: signal.raise_signal(kind))  # type: ignore[misc]
            start = [*TRAIN, *DROPOUT, "--out", "run"] if at == 3 else ["train", "--resume", "run"]
            assert cli(*start).status == status
    assert cli("train", "--resume", "run").status == 0
    assert_same_run(Path("run"), trained)


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """As in a terminal: a shell starts background processes that ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_a_second_ctrl_c_stops_at_once_without_a_checkpoint(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    strike(monkeypatch, 6, twice)
    result = cli(*TRAIN, "--out", "run")
    assert result.status == 130
    assert result.err.endswith("stopped\n")
    assert max(Path("run").glob("step-*")).name == "step-000004"


KILLED = """
import os, signal, sys
import reference.cli.train as command
from reference.__main__ import PACKAGE
from reference.cli.main import main
from reference.cli.progress import Lines

class Killed(Lines):
    def stepped(self, done):
        super().stepped(done)
        if done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

command.display = Killed
main(PACKAGE, sys.argv[1:])
"""


def test_a_run_killed_between_checkpoints_goes_on_bit_for_bit(cli: Cli, trained: Path, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *TRAIN, *DROPOUT, "--out", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert max(Path("run").glob("step-*")).name == "step-000004"
    assert read_log(Path("run"))[-1]["step"] == 6, "the log was behind when the process died"
    assert cli("train", "--resume", "run").status == 0
    assert_same_run(Path("run"), trained)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_resumed(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as struck:
        strike(struck, 9, lambda: signal.raise_signal(signal.SIGINT))
        cli(*TRAIN, *DROPOUT, "--out", "run")
    Path("run/step-000009/optimizer.safetensors").write_bytes(b"")
    result = cli("train", "--resume", "run")
    assert result.status == 0
    assert "note: step-000009: optimizer.safetensors" in result.err
    assert "using step-000008" in result.err
    assert_same_run(Path("run"), trained)


def test_a_finished_run_goes_on_when_it_is_given_more_steps_and_keeps_its_other_settings(
    cli: Cli, tmp_path: Path
) -> None:
    cli(*TRAIN, *DROPOUT, "--steps", "10", "--out", "run", "--betas", "0.8", "0.9", "--clip", "inf")
    result = cli("train", "--resume", "run", "--steps", "20", "--learning-rate", "5e-4", "--keep", "1")
    assert result.status == 0, result.err
    checkpoint, _ = load_newest(Path("run"))
    assert checkpoint.step == 20
    settings = Train.from_json(checkpoint.run["settings"])
    assert settings.steps == 20
    assert settings.learning_rate == 5e-4
    assert settings.betas == (0.8, 0.9)
    assert settings.clip == math.inf
    assert settings.dropout == 0.2
    assert [path.name for path in Path("run").glob("step-*")] == ["step-000020"]
    assert [r["step"] for r in read_log(Path("run")) if "validation_loss" in r] == [0, 5, 10, 15, 20]


def test_a_step_folder_of_a_run_can_be_resumed_when_it_is_the_newest(cli: Cli) -> None:
    cli(*TRAIN, "--out", "run")
    assert cli("train", "--resume", "run/step-000012", "--steps", "14").status == 0
    assert Path("run/step-000014").is_dir()


def test_a_run_resumes_from_another_directory_though_its_text_was_named_relatively(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be " * 30)
    cli("train", "--corpus", "text.txt", *TINY[2:], *SHORT, *HERE, "--out", "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = cli("train", "--resume", "../run", "--steps", "14")
    assert result.status == 0, result.err


def test_a_loss_that_is_not_finite_is_one_line_and_the_last_good_checkpoint_stays(cli: Cli) -> None:
    result = cli(*TRAIN, "--out", "run", "--learning-rate", "1e35", "--clip", "inf", "--checkpoint-interval", "1")
    assert result.status == 1
    assert "stopped. The last good checkpoint is in run;" in result.message
    assert "python -m reference train --resume run --learning-rate 3e+34" in result.message
    checkpoint, problems = load_newest(Path("run"))
    assert problems == []
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.model.values())


def test_float64_is_trained_and_saved_in_float64_from_the_same_first_weights(cli: Cli) -> None:
    for dtype in ("float32", "float64"):
        assert cli(*TRAIN, "--steps", "1", "--keep", "9", "--dtype", dtype, "--out", dtype).status == 0
    single, _ = load_newest(Path("float32/step-000000").parent)
    double, _ = load_newest(Path("float64"))
    assert {tensor.dtype for tensor in double.model.values()} == {torch.float64}
    assert {tensor.dtype for tensor in single.model.values()} == {torch.float32}
    for name, tensor in double.model.items():
        error = float((tensor - single.model[name]).abs().max())
        assert error < 1e-5, f"{name} differs by {error:.1e} after one step"
    assert "float64" in cli("train", "--resume", "float64", "--steps", "2").out


def test_training_can_begin_from_the_weights_of_a_folder_and_cut_its_block_short(cli: Cli, trained: Path) -> None:
    begin = ["train", "--corpus", "nursery", "--init-from", trained, *SHORT, *HERE]
    assert cli(*begin, "--block", "4", "--keep", "9", "--out", "run").status == 0
    from reference.checkpoints.checkpoint import load

    first, source = load(Path("run/step-000000")), load_newest(trained)[0]
    assert first.config.block_size == 4
    assert torch.equal(first.model["wpe.weight"], source.model["wpe.weight"][:4])
    for name, tensor in source.model.items():
        if name != "wpe.weight":
            assert torch.equal(first.model[name], tensor), name
    assert first.tokenizer == source.tokenizer
    assert cli("train", "--resume", "run", "--steps", "14").status == 0


def test_token_files_are_trained_on_as_gpt2_tokens(cli: Cli, tmp_path: Path) -> None:
    from reference.data.shards import write_shard

    write_shard(tmp_path / "tokens.bin", [50256, 464, 1988, 286, 262] * 60)
    tiny = ["--corpus", "tokens.bin", *TINY[2:], "--steps", "2", *HERE]
    result = cli("train", *tiny)
    assert result.status == 0, result.err
    assert "vocabulary 50,257 (gpt2)" in result.out


def test_validation_may_read_only_the_first_windows(cli: Cli) -> None:
    assert cli(*TRAIN, "--eval-windows", "3", "--out", "run").status == 0
    tokens = {r["validation_tokens"] for r in read_log(Path("run")) if "validation_loss" in r}
    assert tokens == {24}


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_loss_validation_speed_and_time_left(tmp_path: Path) -> None:
    pty: Any = pytest.importorskip("pty", reason="needs pseudo-terminals")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reference", *TRAIN, "--steps", "30", "--log-interval", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=follower,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(leader)
    _, err = process.communicate(timeout=60)
    text = shown.decode()
    assert process.returncode == 0, err
    assert "30/30" in text
    assert "validation loss" in text
    assert "tokens/s" in text
    assert "left" in text
    assert "\x1b[" in text, "no bar was drawn"
