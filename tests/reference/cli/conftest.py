"""The command line, run inside the test's process in an empty directory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from reference import GPT, GPTConfig
from reference.__main__ import PACKAGE
from reference.cli.main import main

# a run of a second: one layer, 16 wide, reading a nursery rhyme
TINY = ["--corpus", "nursery", "--layers", "1", "--heads", "2", "--width", "16", "--block", "8", "--batch-size", "4"]
SHORT = ["--steps", "12", "--log-interval", "2", "--eval-interval", "5", "--checkpoint-interval", "4"]
HERE = ["--device", "cpu", "--threads", "1"]
TRAIN = ["train", *TINY, *SHORT, *HERE]


def random_model(config: GPTConfig) -> GPT:
    """A model in float64 without zeros, and with values large enough for a picture."""
    torch.manual_seed(0)
    model = GPT(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error."""
        assert self.err.startswith("error: "), f"status {self.status}, standard error: {self.err!r}"
        assert self.err.count("\n") == 1, f"more than one line: {self.err!r}"
        assert self.err.endswith("\n")
        return self.err.removeprefix("error: ").rstrip("\n")


class Cli:
    """Runs `python -m reference ARGUMENTS` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        self.capsys.readouterr()
        try:
            status = main(PACKAGE, [str(argument) for argument in arguments])
        except SystemExit as stopped:  # tyro's way to end
            status = int(stopped.code or 0)
        printed = self.capsys.readouterr()
        return Result(status, printed.out, printed.err)


@pytest.fixture
def whole_end() -> None:
    """For tests of the end of a run: its sample of 300 tokens and its picture."""


@pytest.fixture(autouse=True)
def short_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip both in all other tests: they take three times as long as the dozen steps before."""
    if "whole_end" in request.fixturenames:
        return

    def draw_losses(runs: list[Path], path: Path) -> Path:
        path.touch()
        return path

    monkeypatch.setattr("reference.cli.train.draw_losses", draw_losses)
    monkeypatch.setattr("reference.cli.train.SAMPLE_TOKENS", 5)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reference.cli.progress.SOON", 3600.0)  # no progress lines on a slow machine
    threads = torch.get_num_threads()
    yield Cli(capsys)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; read it, do not change it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    threads = torch.get_num_threads()
    assert main(PACKAGE, [*TRAIN, "--dropout", "0.2", "--out", str(run)]) == 0
    torch.set_num_threads(threads)
    return run


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
