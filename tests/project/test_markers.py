"""The rules of tests/conftest.py and pytest's settings, seen from outside: a small suite, a real pytest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run_pytest(tmp_path: Path, suite: str, *arguments: str) -> tuple[int, str]:
    """Exit status and output of pytest over `suite`, under this project's settings and conftest."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["COLUMNS"] = "200"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_default_run_leaves_out_what_is_long_or_needs_a_network_or_a_gpu_and_says_why(tmp_path: Path) -> None:
    import torch

    status, output = run_pytest(tmp_path, SUITE + GPU_SUITE)
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
def test_a_mark_named_by_m_is_run(tmp_path: Path, expression: str, closing: str) -> None:
    status, output = run_pytest(tmp_path, SUITE, "-m", expression)
    assert status == 0, output
    assert closing in output


UNKNOWN = "import pytest\n@pytest.mark.sloow\ndef test(): pass"
WARNED = """
import pytest, warnings

def test(): warnings.warn('careful')

@pytest.mark.xfail
def test_passes(): pass
"""


@pytest.mark.parametrize(
    "suite,complaints",
    [(UNKNOWN, ["'sloow' not found in `markers`"]), (WARNED, ["UserWarning: careful", "[XPASS(strict)]", "2 failed"])],
    ids=["unknown mark", "warning and unexpected pass"],
)
def test_pytest_runs_strict(tmp_path: Path, suite: str, complaints: list[str]) -> None:
    status, output = run_pytest(tmp_path, suite)
    assert status != 0, output
    for complaint in complaints:
        assert complaint in output
