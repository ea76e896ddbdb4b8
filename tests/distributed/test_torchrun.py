"""`python -m optimized train` under torchrun: the same run, one writer, one message, one end."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import torch

import reference.cli.train as command
from bench.parity import measure_all
from optimized.__main__ import PACKAGE as OPTIMIZED
from optimized.compilation import compilers
from reference.__main__ import PACKAGE as REFERENCE
from reference.checkpoints.checkpoint import load_newest
from reference.checkpoints.run_folder import read_log
from reference.cli.main import Package, main
from reference.cli.progress import Lines
from tests.distributed.refused import CASES, DDP_ALONE, TRAIN
from tests.distributed.torchrun import begin, finish, optimized, torchrun
from tests.reference.cli.conftest import tree

pytestmark = pytest.mark.multiproc

EXACT = [*TRAIN, "--dtype", "float64", "--dropout", "0"]


@pytest.fixture(autouse=True)
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, of the readable package."""
    run = tmp_path_factory.mktemp("whole") / "run"
    alone(REFERENCE, *EXACT, "--out", str(run))
    return run


def alone(package: Package, *arguments: str) -> int:
    """One process, this one."""
    threads = torch.get_num_threads()
    try:
        return main(package, arguments)
    finally:
        torch.set_num_threads(threads)


def assert_same_run(run: Path, whole: Path) -> None:
    """The same weights to 1e-9, the same losses in the same lines to 1e-12."""
    actual, expected = load_newest(run)[0], load_newest(whole)[0]
    assert actual.step == expected.step
    for measured in measure_all("update", actual.model, expected.model):
        assert measured.error <= 1e-9, f"{measured.name} is off by {measured.error:.1e}"
    records = [[r for r in read_log(folder) if "validation_loss" in r] for folder in (run, whole)]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
    for one, other in zip(*records, strict=True):
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-12), one
        assert one["validation_tokens"] == other["validation_tokens"]


def test_two_processes_write_the_run_that_one_writes_and_say_everything_once(whole: Path) -> None:
    ended = optimized(*EXACT, *DDP_ALONE, "--micro-batch", "1", "--out", "run", processes=2, cwd=Path())
    assert ended.status == 0, ended.err
    assert_same_run(Path("run"), whole)
    losses = [[r["loss"] for r in read_log(folder) if "loss" in r] for folder in (Path("run"), whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-11)
    assert tree(Path("run")).keys() == tree(whole).keys()
    assert not [name for name in load_newest(Path("run"))[0].model if "module" in name]
    lines = ended.out.splitlines()
    assert len(set(lines) - {""}) == len([line for line in lines if line]), ended.out
    assert "steps  12 of 4 x 8 = 32 tokens, on cpu with 1 thread, float64; 2 processes with 2 each" in lines
    assert ended.said == []
    assert "Warning" not in ended.err, ended.err


def test_a_signal_to_one_process_stops_all_and_two_one_and_two_processes_take_the_steps_of_one(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [*EXACT, *DDP_ALONE, "--out", "run"]
    ended = torchrun("-m", "tests.distributed.struck", "ctrl-c", 1, 3, *train, processes=2, cwd=Path())
    assert "stopped after step 3; resume with: python -m optimized train --resume run" in ended.out
    assert ended.exit_codes == [130, 130], ended.err
    assert sorted(path.name for path in Path("run").glob("step-*")) == ["step-000000", "step-000003"]

    class Struck(Lines):
        def stepped(self, done: int) -> None:
            super().stepped(done)
            if done == 7:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as struck:
        struck.setattr(command, "display", Struck)
        assert alone(OPTIMIZED, "train", "--resume", "run") == 130
    ended = optimized("train", "--resume", "run", processes=2, cwd=Path())
    assert ended.status == 0, ended.err
    assert_same_run(Path("run"), whole)


@pytest.mark.slow
def test_with_dropout_a_run_of_two_that_was_stopped_goes_on_bit_for_bit() -> None:
    train = [*TRAIN, *DDP_ALONE, "--dropout", "0.3"]
    torchrun("-m", "tests.distributed.struck", "ctrl-c", 0, 5, *train, "--out", "a", processes=2, cwd=Path())
    optimized("train", "--resume", "a", processes=2, cwd=Path())
    optimized(*train, "--out", "b", processes=2, cwd=Path())
    a, b = (load_newest(Path(run))[0] for run in ("a", "b"))
    assert a.step == b.step == 12
    for name, tensor in a.model.items():
        assert torch.equal(tensor, b.model[name]), name


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_to_torchrun_stops_every_process_at_the_same_step_with_one_checkpoint(kind: int) -> None:
    endless = ["--steps", "1000000", "--checkpoint-interval", "1000000", "--eval-interval", "1000000", "--out", "run"]
    process = begin("-m", "optimized", *TRAIN, *DDP_ALONE, *endless, processes=2, cwd=Path())
    assert process.stdout is not None
    seen = ""
    while "step 20/" not in seen:
        seen = process.stdout.readline()
        assert seen, process.communicate()[1]
    process.send_signal(kind)
    ended = finish(process)
    (stopped,) = re.findall(
        r"stopped after step ([\d,]+); resume with: python -m optimized train --resume run", ended.out
    )
    step = int(stopped.replace(",", ""))
    assert sorted(path.name for path in Path("run").glob("step-*")) == ["step-000000", f"step-{step:06d}"]
    assert load_newest(Path("run"))[1] == []
    assert ended.said == ["note: stopping after this step, with a checkpoint; press Ctrl-C again to stop without"]


MISTAKES = {
    "batch": "--batch-size 3 for 2 processes: cannot be shared equally; give a multiple of 2",
    "micro-batch": "--micro-batch 4: does not divide the 6 sequences of",
    "no ddp": "2 processes and a recipe without ddp: switch it on by --with ddp",
    "corpus": "unknown corpus 'nowhere.txt'",
    "bf16": "the rung bf16 and float64 weights do not go together",
    "no text": "the text is not there for rank 1",
    "other seed": "--seed is 1337 in the first process and 2 in",
    "sample": "error: sample takes one process, and 2 were started: run it without torchrun",
}


def test_a_mistake_is_one_line_from_one_process_and_torchrun_sees_both_exit_with_2(tmp_path: Path) -> None:
    ended = optimized(*CASES["batch"][1], processes=2, cwd=tmp_path)
    assert ended.exit_codes == [2, 2], ended.err
    assert ended.out == ""
    (line,) = ended.said
    assert MISTAKES["batch"] in line
    assert list(tmp_path.iterdir()) == [], "something was written"


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of every refused command: all of them by two processes, which import torch once."""
    folder = tmp_path_factory.mktemp("refused")
    for case in CASES:
        (folder / case).mkdir()
    ended = torchrun("-m", "tests.distributed.refused", folder, processes=2, cwd=folder)
    assert ended.status == 0, ended.err
    return folder


def lines_of(folder: Path, case: str) -> list[str]:
    """The lines of standard error of both processes, each of which has exited with 2 and done nothing else."""
    ended = [json.loads((folder / f"found.{rank}").read_text())[case] for rank in (0, 1)]
    assert [status for status, _, _ in ended] == [2, 2], ended
    assert [out for _, out, _ in ended] == ["", ""]
    assert list((folder / case).iterdir()) == [], "something was written"
    return [line for _, _, err in ended for line in err.splitlines()]


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_of_all_or_of_one_process_is_one_line_and_all_exit_with_2(refused: Path, case: str) -> None:
    (line,) = lines_of(refused, case)
    assert line.startswith("error: ")
    assert MISTAKES[case] in line


def test_options_that_cannot_be_read_are_told_once(refused: Path) -> None:
    lines = lines_of(refused, "unreadable")
    assert not [line for line in lines if line.startswith(("error:", "note:"))]
    assert "\n".join(lines).count("--stepps") == 1, lines


@pytest.mark.parametrize(
    "how, says",
    [
        ("bug", "error: process 1 failed"),
        ("full disk", "error: No space left on device"),
        ("killed", "error: process 0 lost the others: one of them was ended from outside"),
    ],
)
def test_a_process_that_fails_ends_the_others_with_its_error(how: str, says: str) -> None:
    endless = ["--steps", "1000000", "--eval-interval", "1000000", "--out", "run"]
    ended = torchrun("-m", "tests.distributed.struck", how, 1, 6, *TRAIN, *DDP_ALONE, *endless, processes=2, cwd=Path())
    assert ended.status == 1
    assert ended.said == [says], ended.err
    assert ("nobody expected this in rank 1" in ended.err) == (how == "bug")
    assert load_newest(Path("run"))[0].step == 4, "the checkpoint before it is whole"


def test_a_loss_that_is_not_finite_is_told_once() -> None:
    mad = ["--learning-rate", "1e35", "--clip", "inf", "--checkpoint-interval", "1", "--out", "run"]
    ended = optimized(*TRAIN, *DDP_ALONE, *mad, processes=2, cwd=Path())
    assert ended.status == 1
    (line,) = ended.said
    assert "stopped. The last good checkpoint is in run;" in line


def test_two_launchers_on_one_machine_train_together(whole: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = (
        *("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"),
        *("--rdzv-id", "pair", "--local-addr", "127.0.0.1"),
    )
    train = ["-m", "optimized", *EXACT, *DDP_ALONE, "--out", "run"]
    both = [begin(*train, processes=1, cwd=Path(), launcher=launcher) for _ in range(2)]
    ended = [finish(process) for process in both]
    assert [one.status for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert sorted(bool(one.out) for one in ended) == [False, True], "both say something"
    assert_same_run(Path("run"), whole)
    assert os.listdir() == ["run"]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_default_recipe_on_two_processes_learns_what_it_learns_on_one(tmp_path: Path) -> None:
    """Compiled and in bfloat16: the losses of 20 steps by its budget."""
    arguments = [*TRAIN, "--steps", "20", "--eval-interval", "5", "--dropout", "0"]
    two = optimized(*arguments, "--out", tmp_path / "two", processes=2, cwd=tmp_path, limit=300.0)
    assert two.status == 0, two.err
    if compilers():
        assert re.search(r"^recipe .*compile", two.out, re.MULTILINE), two.out
    alone(OPTIMIZED, *arguments, "--out", str(tmp_path / "one"))
    logs = [read_log(tmp_path / run) for run in ("one", "two")]
    losses = [[record["validation_loss"] for record in log if "validation_loss" in record] for log in logs]
    assert len(losses[0]) == 5
    for one, shared in zip(*losses, strict=True):
        assert abs(shared - one) <= 1e-2 * one
    assert losses[0][-1] < losses[0][0]
