"""Each simulated machine is what it says, seen from inside a process on it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines.__main__ import Outcome, cell, table
from tests.machines.machines import BUILD, MACHINES

ASK = """
import json, os, shutil, sys
import torch
from optimized.hardware import hardware_of
from reference.cpu import instruction_sets
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


HIDING = ("no-bfloat16", "no-mallopt", "no-stdout")  # the others only set what Python or torch document


@pytest.mark.parametrize(
    "name", [name if name in HIDING else pytest.param(name, marks=pytest.mark.slow) for name in MACHINES]
)
def test_a_process_sees_the_machine_that_is_simulated(name: str) -> None:
    if name in ("no-bfloat16", "no-vectors") and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("simulates a CPU of x86-64, by variables that heed no other")
    machine = MACHINES[name]
    close = () if machine.stdout else ("sh", "-c", 'exec "$@" >&-', "sh")
    done = subprocess.run(
        [*close, sys.executable, "-c", ASK], env=machine.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    assert {what: found[what] for what in IS[name]} == IS[name]
    if name == "no-bfloat16":
        assert set(found["sets"]) <= {"AVX2"}
    if name == "no-vectors":
        assert not {"AVX2", "AVX-512"} & set(found["sets"])


def test_each_machine_keeps_compiled_code_to_itself_and_in_this_checkout() -> None:
    folders = {Path(machine.environment()["TORCHINDUCTOR_CACHE_DIR"]) for machine in MACHINES.values()}
    assert len(folders) == len(MACHINES)
    assert {folder.parent for folder in folders} == {BUILD / "torchinductor"}


def test_the_table_has_a_row_for_each_machine_and_says_what_failed() -> None:
    outcomes = [
        Outcome("one-thread", "tests", True, 61.2, None, "12 passed, 3 skipped in 60 s"),
        Outcome("one-thread", "train (optimized)", True, 9.9, 4321.0),
        Outcome("ascii", "tests", False, 5.0, None, "1 failed, 11 passed in 4 s"),
    ]
    assert table(outcomes).splitlines() == [
        "| machine | tests | train (optimized) |",
        "| --- | ---: | ---: |",
        "| one-thread | 61 s, 12 passed | 10 s, 4,321 tokens/s |",
        "| ascii | **failed**, 5 s, 11 passed | n/a |",
    ]
    assert cell(None) == "n/a"
