"""noxfile.py, and everything that names its sessions: the documents, the workflow and .ci/run."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMING = ["README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml"]


def sessions() -> dict[str, ast.FunctionDef]:
    """Name -> function of every session; read, not imported, as nox is no part of the tests' environment."""
    found = {}
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and any(
            "nox.session" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            found[node.name] = node
    return found


def test_the_sessions_that_the_documents_promise_exist() -> None:
    assert {"tests", "slow", "compare", "lint", "types"} <= set(sessions())


@pytest.mark.parametrize("name", sessions())
def test_every_session_says_what_it_does_in_one_line_of_nox_l(name: str) -> None:
    docstring = ast.get_docstring(sessions()[name])
    assert docstring, f"session {name} has no docstring"
    assert len(docstring.splitlines()[0]) >= 30, f"session {name}: {docstring.splitlines()[0]!r} says too little"


@pytest.mark.parametrize("name", sorted(set(sessions()) - {"environment"}))
def test_every_session_passes_on_what_follows_the_dashes(name: str) -> None:
    assert "*session.posargs" in ast.unparse(sessions()[name])


@pytest.mark.parametrize("name", sessions())
def test_every_install_is_held_to_the_constraints(name: str) -> None:
    installs = re.findall(r"session\.install\(([^\n]*)\)", ast.unparse(sessions()[name]))
    for arguments in installs:
        assert arguments.startswith("*CONSTRAINTS, "), f"session {name} installs {arguments} without constraints"
    needs_environment = any(
        "requires=['environment']" in ast.unparse(decorator) for decorator in sessions()[name].decorator_list
    )
    assert installs or needs_environment, f"session {name} neither installs nor requires the environment"


@pytest.mark.parametrize("document", NAMING)
def test_every_session_that_is_named_anywhere_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"nox -s ([a-z]+)", text)
    for several in re.findall(r"session: \[?([a-z, ]+)", text):
        named += several.split(", ")
    assert named, f"{document} names no session"
    assert set(named) <= set(sessions()), f"{document} names {set(named) - set(sessions())}"


def test_the_readme_opens_with_the_two_commands_that_install_and_run() -> None:
    opening = (ROOT / "README.md").read_text().splitlines()[:40]
    for command in ("pip install nox && nox -s tests", "pip install nox && nox -s compare"):
        assert any(command in line for line in opening), f"`{command}` is not at the top of README.md"


def run_ci(tmp_path: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """.ci/run with stand-ins for python3, pip and nox; the step that runs session `failing` exits 1."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    programs = tmp_path / "programs"
    programs.mkdir()
    stand_ins = {
        "pip": "exit 0",
        "nox": f'echo "nox $*"; [ "$2" != "{failing}" ]',
        # python3 -m venv DIR
        "python3": f'mkdir -p "$3/bin" && cp "{programs}/pip" "{programs}/nox" "$3/bin"',
    }
    for name, body in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return subprocess.run(
        ["bash", str(tmp_path / ".ci" / "run")],
        env={"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8", "CI": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_ci_runs_the_readmes_test_command_first_and_passes_when_every_step_does(tmp_path: Path) -> None:
    done = run_ci(tmp_path, failing="none")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^==> (.*)$", done.stdout, re.M)
    assert steps[0] == "pip install nox && nox -s tests"
    for session in ("slow", "lint", "types"):
        assert f"nox -s {session}" in steps
    assert re.findall(r"^passed +\d+ s  (.*)$", done.stdout, re.M) == steps


@pytest.mark.parametrize("failing", ["tests", "slow", "lint", "types"])
def test_ci_fails_when_any_step_does_and_runs_the_others_all_the_same(tmp_path: Path, failing: str) -> None:
    done = run_ci(tmp_path, failing)
    assert done.returncode == 1, done.stdout + done.stderr
    steps = re.findall(r"^==> (.*)$", done.stdout, re.M)
    outcomes = re.findall(r"^(passed|FAILED) +\d+ s  (.*)$", done.stdout, re.M)
    assert outcomes == [("FAILED" if step.endswith(f"nox -s {failing}") else "passed", step) for step in steps]


def test_processes_that_share_the_cores_have_one_thread_each() -> None:
    """With one for each core they wait for each other: 15 % more CPU time over the tests of training and the rungs."""
    spread = {name: ast.unparse(node) for name, node in sessions().items() if "*SPREAD" in ast.unparse(node)}
    assert {"tests", "slow"} <= set(spread)
    for name, code in spread.items():
        assert "env=ONE_THREAD" in code, f"session {name} leaves each of its processes as many threads as cores"
    assert 'ONE_THREAD = {"OMP_NUM_THREADS": "1"}' in (ROOT / "noxfile.py").read_text()
