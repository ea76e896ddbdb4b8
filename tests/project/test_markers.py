"""The rules of tests/conftest.py and pytest's settings, seen from outside: a small suite, a real pytest."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

SUITE = """
import socket, pytest

def test_plain(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.slow
@pytest.mark.multiproc
def test_slow_multiproc(): pass

@pytest.mark.net
def test_net():
    with pytest.raises(OSError) as error:
        socket.create_connection(("name.invalid", 9), timeout=1)
    assert "no network in tests" not in str(error.value)

def test_offline():
    with pytest.raises(OSError, match="no network in tests: name.invalid not resolved"):
        socket.create_connection(("name.invalid", 9), timeout=1)
    with socket.socket() as socket_, pytest.raises(OSError, match="connection to 192.0.2.1 refused"):
        socket_.connect(("192.0.2.1", 9))

def test_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
"""


GPU_SUITE = """
import pytest

@pytest.mark.gpu
def test_gpu(): pass
"""

UNKNOWN = "import pytest\n@pytest.mark.sloow\ndef test(): pass"
WARNED = """
import pytest, warnings

def test(): warnings.warn('careful')

@pytest.mark.xfail
def test_passes(): pass
"""

SUITES = {"usual": SUITE, "gpu": GPU_SUITE, "unknown": UNKNOWN, "warned": WARNED}
RUNS = {  # the suites of each, and its options
    "default": (["usual", "gpu"], []),
    "slow or multiproc": (["usual"], ["-m", "slow or multiproc"]),
    "slow": (["usual"], ["-m", "slow"]),
    "net": (["usual"], ["-m", "net"]),
    "unknown": (["unknown"], []),
    "warned": (["warned"], []),
}
PROGRAM = """
import json, os, sys
import pytest

for arguments in json.loads(sys.argv[1]):
    os.environ["COLUMNS"] = "200"
    status = pytest.main(["-v", "-p", "no:cacheprovider", *arguments])
    print(f"<status {int(status)}>", flush=True)
"""
Outputs = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Exit status and output of each run of pytest, under this project's settings and conftest; all in one process."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    for name, suite in SUITES.items():
        (folder / "tests" / f"test_{name}.py").write_text(suite)
    runs = [[*(f"tests/test_{suite}.py" for suite in suites), *options] for suites, options in RUNS.values()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", PROGRAM, json.dumps(runs)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    *said, rest = re.split(r"<status (\d+)>", done.stdout)
    assert (len(said), rest.strip()) == (2 * len(RUNS), ""), done.stdout + done.stderr
    return {name: (int(said[2 * number + 1]), said[2 * number]) for number, name in enumerate(RUNS)}


def test_the_default_run_leaves_out_what_is_long_or_needs_a_network_or_a_gpu_and_says_why(outputs: Outputs) -> None:
    import torch

    status, output = outputs["default"]
    assert status == 0, output
    assert 'slow (takes long): run it with -m "slow"\n' in output
    both = 'slow (takes long), multiproc (starts several processes): run it with -m "slow or multiproc"\n'
    assert both in output
    assert 'net (needs a network beyond this machine): run it with -m "net"\n' in output
    if torch.cuda.is_available():
        assert "4 passed, 3 skipped" in output
    else:
        assert "gpu: needs a CUDA device, and torch sees none here" in output
        assert "3 passed, 4 skipped" in output


@pytest.mark.parametrize(
    "expression,closing",
    [
        ("slow or multiproc", "2 passed, 4 deselected"),
        ("slow", "1 passed, 1 skipped, 4 deselected"),
        ("net", "1 passed, 5 deselected"),
    ],
)
def test_a_mark_named_by_m_is_run(outputs: Outputs, expression: str, closing: str) -> None:
    status, output = outputs[expression]
    assert status == 0, output
    assert closing in output


@pytest.mark.parametrize(
    "run,complaints",
    [
        ("unknown", ["'sloow' not found in `markers`"]),
        ("warned", ["UserWarning: careful", "[XPASS(strict)]", "2 failed"]),
    ],
    ids=["unknown mark", "warning and unexpected pass"],
)
def test_pytest_runs_strict(outputs: Outputs, run: str, complaints: list[str]) -> None:
    status, output = outputs[run]
    assert status != 0, output
    for complaint in complaints:
        assert complaint in output
