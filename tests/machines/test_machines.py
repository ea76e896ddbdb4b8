"""A process on each simulated machine sees what its name says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machines.__main__ import COUNTS, Outcome, cell, count_passed, run, table
from tests.machines.machines import BUILD, MACHINES

OnMachine = Callable[..., subprocess.CompletedProcess[str]]

ASK = """
import json, os, shutil, sys
import torch
from optimized.hardware import hardware_of
from reference.training.cpu import instruction_sets
here = hardware_of("cpu")
try:
    home = os.path.join(os.path.expanduser("~"), "probe")
    open(home, "w").close(); os.remove(home); writable = True
except OSError:
    writable = False
found = {
    "bfloat16": here.bfloat16, "compiler": here.compiler, "keeps_memory": here.keeps_memory, "vectors": here.vectors,
    "home": writable,
    "threads": torch.get_num_threads(), "sets": instruction_sets(), "stdout": sys.stdout is not None,
    "encoding": sys.stdout.encoding if sys.stdout else None, "columns": shutil.get_terminal_size().columns,
}
print(json.dumps(found), file=sys.stderr)
"""

IS = {
    "no-bfloat16": {"bfloat16": False},
    "no-vectors": {"vectors": False, "bfloat16": False},
    "no-compiler": {"compiler": False},
    "one-thread": {"threads": 1},
    "sixteen-threads": {"threads": 16},
    "no-mallopt": {"keeps_memory": False},
    "read-only-home": {"home": False},
    "no-stdout": {"stdout": False},
    "cp1252": {"encoding": "cp1252"},
    "lang-c": {"encoding": "ascii"},
    "80-columns": {"columns": 80},
}


HIDING = ("no-bfloat16", "no-mallopt", "no-stdout")  # the others only set documented variables of Python or torch


@pytest.mark.parametrize(
    "name", [name if name in HIDING else pytest.param(name, marks=pytest.mark.slow) for name in MACHINES]
)
def test_a_process_sees_the_machine_that_is_simulated(name: str, on_machine: OnMachine) -> None:
    done = on_machine(name, sys.executable, "-c", ASK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    assert {what: found[what] for what in IS[name]} == IS[name]
    if name == "no-bfloat16":
        assert set(found["sets"]) <= {"AVX2"}
    if name == "no-vectors":
        assert not {"AVX2", "AVX-512"} & set(found["sets"])


def test_a_user_without_bfloat16_trains_in_float32_and_reads_why(tmp_path: Path, on_machine: OnMachine) -> None:
    train = ("train", "--corpus", "nursery", "--layers", "1", "--heads", "2", "--width", "256", "--block", "8")
    options = ("--steps", "1", "--without", "compile", "--threads", "1", "--out", str(tmp_path / "run"))
    done = on_machine("no-bfloat16", sys.executable, "-m", "optimized", *train, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^steps .*, float32$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^left out: .*bf16 \(this CPU has no bfloat16 instructions and", done.stdout, re.MULTILINE)


def test_each_machine_keeps_compiled_code_to_itself_and_in_this_checkout() -> None:
    folders = {Path(machine.environment()["TORCHINDUCTOR_CACHE_DIR"]) for machine in MACHINES.values()}
    assert len(folders) == len(MACHINES)
    assert {folder.parent for folder in folders} == {BUILD / "torchinductor"}


def test_the_table_has_a_row_for_each_machine_and_says_what_failed() -> None:
    outcomes = [
        Outcome("one-thread", "tests", True, 61.2, None, 12),
        Outcome("one-thread", "train (optimized)", True, 9.9, 4321.0),
        Outcome("ascii", "tests", False, 5.0, None, 11, "1 failed, 11 passed in 4 s"),
    ]
    assert table(outcomes).splitlines() == [
        "| machine | tests | train (optimized) |",
        "| --- | ---: | ---: |",
        "| one-thread | 61 s, 12 passed | 10 s, 4,321 tokens/s |",
        "| ascii | **failed**, 5 s, 11 passed | n/a |",
    ]
    assert cell(None) == "n/a"


def test_tests_that_passed_are_counted_where_one_fails_and_one_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "test_four.py"
    file.write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): pass\n"
        "def test_c(): assert False\n"
        "def test_d(): pytest.skip('no')\n"
    )
    assert count_passed(tmp_path / COUNTS) is None
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={tmp_path / COUNTS}")
    outcome = run(MACHINES["one-thread"], "tests", (*command, f"--rootdir={tmp_path}", str(file)), tmp_path)
    assert (outcome.passed, outcome.tests_passed) == (False, 2)
    assert outcome.why.startswith("1 failed, 2 passed, 1 skipped")


@pytest.mark.parametrize("width, passed", [(80, True), (81, False)])
def test_a_command_with_a_line_wider_than_the_terminal_has_failed(width: int, passed: bool, tmp_path: Path) -> None:
    wide = f"print('a ' + 'b' * {width - 2})"
    outcome = run(MACHINES["80-columns"], "compare", (sys.executable, "-c", wide), tmp_path)
    assert outcome.passed is passed
    assert outcome.why.startswith("" if passed else "a line of 81 columns: a bbb")
