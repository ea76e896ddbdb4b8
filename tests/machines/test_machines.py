"""A process on each simulated machine sees what its name says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.machines.__main__ import COUNTS, Outcome, cell, count_passed, run, table
from tests.machines.machines import BUILD, MACHINES, Machine

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


# Machines whose settings have nothing to do with each other share a process, which takes seconds to import torch.
HIDING = ("no-mallopt", "no-stdout")
SETTINGS = [  # documented variables of Python and torch
    ("no-compiler", "one-thread", "read-only-home", "cp1252", "80-columns"),
    ("no-vectors", "sixteen-threads", "lang-c"),
]
ALONE = "no-bfloat16"  # below, with a training run


def together(names: Sequence[str]) -> Machine:
    """The machine that is all of these at once."""
    machines = [MACHINES[name] for name in names]
    variables: dict[str, str] = {}
    for machine in machines:
        assert not variables.keys() & machine.variables.keys(), f"{machine.name} undoes another one"
        variables |= machine.variables
    return Machine(
        " and ".join(names),
        "",
        variables,
        home=all(machine.home for machine in machines),
        stdout=all(machine.stdout for machine in machines),
        x86=any(machine.x86 for machine in machines),
        hidden="".join(machine.hidden for machine in machines),
    )


def test_every_machine_is_seen_below() -> None:
    assert sorted([ALONE, *HIDING, *(name for names in SETTINGS for name in names)]) == sorted(MACHINES)


@pytest.mark.parametrize(
    "names", [HIDING, *(pytest.param(names, marks=pytest.mark.slow) for names in SETTINGS)], ids=" and ".join
)
def test_a_process_sees_the_machine_that_is_simulated(names: Sequence[str]) -> None:
    machine = together(names)
    if not machine.possible():
        pytest.skip(f"{machine.name}: simulates a CPU of x86-64, by variables that no other heeds")
    done = machine.run(sys.executable, "-c", ASK, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    expected = {what: value for name in names for what, value in IS[name].items()}
    assert {what: found[what] for what in expected} == expected
    if "no-vectors" in names:
        assert not {"AVX2", "AVX-512"} & set(found["sets"])


TRAIN = """
from optimized.__main__ import PACKAGE
from reference.cli.main import main
assert main(PACKAGE, sys.argv[1:]) == 0
"""


@pytest.mark.slow
def test_a_user_without_bfloat16_trains_in_float32_and_reads_why(tmp_path: Path, on_machine: OnMachine) -> None:
    train = ("train", "--corpus", "nursery", "--layers", "1", "--heads", "2", "--width", "256", "--block", "8")
    options = ("--steps", "1", "--without", "compile", "--threads", "1", "--out", str(tmp_path / "run"))
    done = on_machine(ALONE, sys.executable, "-c", ASK + TRAIN, *train, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^steps .*, float32$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^left out: .*bf16 \(this CPU has no bfloat16 instructions and", done.stdout, re.MULTILINE)
    (found,) = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {what: found[what] for what in IS[ALONE]} == IS[ALONE]
    assert set(found["sets"]) <= {"AVX2"}


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
