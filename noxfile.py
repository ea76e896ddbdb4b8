"""All tasks of the project, one session each: `nox -l` lists them, `nox -s NAME` runs one.

Arguments after `--` go to the command underneath: `nox -s tests -- -k parity`.
"""

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]

CONSTRAINTS = ("-c", "constraints.txt")
# One process per core, up to four, with one thread each: more threads would wait for each other. The tests of a file
# stay in one process, as they share fixtures, in the order of tests/conftest.py.
SPREAD = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@nox.session
def environment(session: nox.Session) -> None:
    """Install the project and its test requirements, once for the sessions that share them.

    One environment, because PyTorch is large. It is updated only if pyproject.toml or constraints.txt has changed, so
    that a second run needs no network.
    """
    wanted = hashlib.sha256(Path("pyproject.toml").read_bytes() + Path("constraints.txt").read_bytes())
    installed = Path(session.virtualenv.location, "installed.sha256")
    if installed.is_file() and installed.read_text() == wanted.hexdigest():
        session.log("up to date")
        return
    installed.unlink(missing_ok=True)
    # Without build isolation the setuptools that is pinned here is used, not the newest release.
    session.install(*CONSTRAINTS, "setuptools")
    project = ".[parity,peers,tests,types]"
    session.install(*CONSTRAINTS, "--no-build-isolation", "-e", project, silent=False)
    installed.write_text(wanted.hexdigest())


def run_python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run the shared environment's python, with the environment's programs first on PATH.

    Args:
        env: variables for it; what the user has set stays, but that bytecode is not written
    """
    programs = session.cache_dir.parent / "environment" / ("Scripts" if sys.platform == "win32" else "bin")
    path = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])
    # Waiting threads sleep soon instead of spinning: on shared cores, a spinning thread takes time from the thread that
    # it waits for, and small models become many times slower.
    variables = {"GOMP_SPINCOUNT": "3000", **(env or {})}
    variables = {name: os.environ.get(name, value) for name, value in variables.items()}
    # Images of Docker often forbid bytecode. Every process would then compile the project anew, and pytest rewrite the
    # assertions of all tests: 12 s.
    variables["PYTHONDONTWRITEBYTECODE"] = ""
    # After Ctrl-C nox kills the process in half a second; saving its partial results takes a little longer.
    patience = {"interrupt_timeout": 4.0, "terminate_timeout": 2.0}
    session.run(str(programs / "python"), *arguments, external=True, env={"PATH": path, **variables}, **patience)


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the tests, except those marked slow, long, multiproc or net. `-- -k parity` runs only the proofs."""
    run_python(session, "-m", "pytest", *SPREAD, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", requires=["environment"])
def slow(session: nox.Session) -> None:
    """Run the tests marked slow or multiproc: they take long or start several processes."""
    marked = ("-m", "slow or multiproc", "--durations=25")
    run_python(session, "-m", "pytest", *SPREAD, *marked, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", requires=["environment"])
def long(session: nox.Session) -> None:
    """Run the tests marked long: each trains for minutes as a document says, or repeats a slow test. 20 minutes."""
    marked = ("-m", "long or (long and multiproc)", "--durations=25")
    run_python(session, "-m", "pytest", *SPREAD, *marked, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", requires=["environment"])
def compare(session: nox.Session) -> None:
    """Compare the models: numerical distance, then speed. Three minutes. `-- --help` lists the options."""
    run_python(session, "-m", "bench", "compare", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def bench(session: nox.Session) -> None:
    """Measure every rung and peer on every device: tokens/s, memory, roofline. `-- --quick` takes 2 to 4 minutes."""
    run_python(session, "-m", "pytest", "bench/suite", "--benchmark-columns=median,iqr,rounds", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def machines(session: nox.Session) -> None:
    """Run tests, training and a comparison on simulated machines, such as no-bfloat16. `-- NAME` for one."""
    run_python(session, "-m", "tests.machines", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def report(session: nox.Session) -> None:
    """Turn bench/results into a page, pictures and tables in build/report. `-- --help` lists the options."""
    run_python(session, "-m", "bench", "report", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def docs(session: nox.Session) -> None:
    """Run the commands in README and docs and write what they print beside them. `-- --check` only compares."""
    run_python(session, "-m", "tests.project.doc_outputs", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Plant small bugs in the models (mutmut) and list those that no test notices. Takes an hour or two."""
    session.install(*CONSTRAINTS, "setuptools")
    session.install(*CONSTRAINTS, "--no-build-isolation", "-e", ".[parity,tests,mutation]")
    # CI: hypothesis then takes the same examples for every mutant
    session.run("python", "-m", "mutmut", "run", *session.posargs, env={"CI": "1", "OMP_NUM_THREADS": "1"})
    session.run("python", "-m", "tests.mutation.report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, import directions and the workflows. `-- --fix` fixes what ruff can."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    session.install(*CONSTRAINTS, *project["optional-dependencies"]["lint"])
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-logo")
    session.run("actionlint", *map(str, sorted(Path(".github/workflows").glob("*.yml"))))


@nox.session(venv_backend="none", requires=["environment"])
def types(session: nox.Session) -> None:
    """Check the annotations of the packages with mypy, strictly."""
    run_python(session, "-m", "mypy", *session.posargs)
