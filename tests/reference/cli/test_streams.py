"""A command's standard streams: closed ones, full ones, and encodings that lack a character."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from reference.cli.streams import prepare_streams
prepare_streams()
with open(sys.argv[1], "w") as file:
    os.system("echo from a compiler")
    os.system("echo from a compiler >&2")
    print("grüße \\U0001f389", flush=True)
    print("grüße \\U0001f389", file=sys.stderr, flush=True)
    file.write("a checkpoint")
print(sys.stdin.read(), end="")
"""


def run(folder: Path, redirections: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", CODE, str(folder / "file")]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3]), **variables}
    return subprocess.run(command, capture_output=True, env=env, stdin=subprocess.DEVNULL, timeout=60, check=False)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_what_is_printed_to_a_closed_stream_or_to_errors_on_a_full_disk_goes_nowhere_and_not_into_a_file(
    tmp_path: Path, closed: str
) -> None:
    done = run(tmp_path, closed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "a checkpoint"


@pytest.mark.parametrize("encoding, printed", [("cp1252", "grüße ?"), ("ascii", "gr??e ?"), ("utf-8", "grüße 🎉")])
def test_a_character_that_the_encoding_lacks_is_a_question_mark(tmp_path: Path, encoding: str, printed: str) -> None:
    done = run(tmp_path, "", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).splitlines()[-1] == printed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a device that is always full")
def test_a_report_that_cannot_be_written_does_not_say_different() -> None:
    asked = ("-m", "bench", "compare", "--template", "examples/my_gpt.py:GPT")
    command = ["sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, *asked]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "error: No space left on device")


@pytest.mark.slow
def test_a_path_that_the_locale_cannot_read_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "dürre.py"
    file.write_text((Path(__file__).parents[3] / "examples" / "my_gpt.py").read_text())
    command = [sys.executable, "-m", "bench", "compare", "--candidate", f"{file}:build", "--steps", "0"]
    env = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"}
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=env | ascii_only, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert re.search(
        r"^error: '.*d\\udcc3\\udcbcrre.py.*' has bytes that are no text in this locale: set PYTHONUTF8=1$",
        done.stderr,
        re.MULTILINE,
    )
    advised = subprocess.run(
        command, env=env | ascii_only | {"PYTHONUTF8": "1"}, capture_output=True, timeout=120, check=False
    )
    assert advised.returncode == 0
