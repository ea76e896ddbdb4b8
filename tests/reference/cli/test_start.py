"""`python -m reference` as a process: help, errors, a pipe that closes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reference.config import SIZES
from reference.data.corpora import CORPORA
from reference.data.tokenizers import NAMES
from tests.reference.cli.conftest import Cli

ROOT = Path(__file__).parents[3]


def start(*arguments: str, cwd: Path, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "reference", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def without_waiting(error: str) -> str:
    """Standard error without the progress lines of a slow machine."""
    return re.sub(r"^[a-z][a-zA-Z ]+ \(\d+ s\)\n", "", error, flags=re.MULTILINE)


def test_help_names_the_four_commands_and_imports_nothing_that_only_a_command_needs(tmp_path: Path) -> None:
    result = start("--help", cwd=tmp_path, python=["-X", "importtime"])
    assert result.returncode == 0
    assert "usage: python -m reference [-h] {train,sample,eval,plot}" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"altair", "rich.progress", "tiktoken", "pooch", "safetensors", "reference.training.loop"}


def test_a_mistake_is_one_line_on_standard_error_and_status_2_without_a_traceback(tmp_path: Path) -> None:
    result = start("train", "--corpus", "nowhere.txt", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    error = without_waiting(result.stderr)
    assert error.startswith("error: unknown corpus 'nowhere.txt'")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_a_sample_quietly(trained: Path) -> None:
    command = f"{sys.executable} -m reference sample {trained} --tokens 2000 --device cpu | head -c 5"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert len(result.stdout) == 5
    assert without_waiting(result.stderr) == ""
    assert result.returncode in (1, 128 + signal.SIGPIPE)


PICTURES = ["loss", "attention", "embedding", "histograms", "temperature"]
COMMANDS = [["train"], ["sample"], ["eval"], *(["plot", picture] for picture in PICTURES)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text_and_says_its_default(
    cli: Cli, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = cli(*command, "--help")
    assert result.status == 0
    lines = [line.strip("│ ") for line in result.out.splitlines()]
    options = [line for line in lines if re.match(r"(--[a-z]|\[RUN)", line)]
    assert len(options) >= 2
    for number, line in enumerate(lines):
        if line not in options or line.startswith("--help"):
            continue
        text = line + " " + lines[number + 1]  # a long option has its text on the next line
        assert "(default: " in text, line
        words = re.sub(r"\(default: .*?\)|--[\w-]+|[A-Z{}|\[\],]+\b", "", text)
        assert len(words.split()) >= 3, f"no help for {line}"


def test_help_names_every_corpus_tokenizer_size_and_device(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    out = cli("train", "--help").out
    for name in (*CORPORA, *NAMES, *SIZES, "auto", "cpu", "cuda", "mps", "float32", "float64"):
        assert name in out, name
