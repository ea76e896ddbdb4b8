"""Everything this project is asked to do, one session each: `nox -l` lists them, `nox -s NAME` runs one.

What follows `--` goes to the command underneath: `nox -s tests -- -k parity`.
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
# One process for each core, up to four, with one thread each, or they would wait for each other; the tests of a file
# stay together, for what they share, in the order of tests/conftest.py.
SPREAD = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@nox.session
def environment(session: nox.Session) -> None:
    """Install the project and all it is tested with, once for the sessions that share it.

    One environment, because PyTorch is large. It is brought up to date when pyproject.toml or constraints.txt
    changed since the last time, and left alone otherwise, so that a second run needs no network.
    """
    wanted = hashlib.sha256(Path("pyproject.toml").read_bytes() + Path("constraints.txt").read_bytes())
    installed = Path(session.virtualenv.location, "installed.sha256")
    if installed.is_file() and installed.read_text() == wanted.hexdigest():
        session.log("up to date")
        return
    installed.unlink(missing_ok=True)
    # Without isolation the build uses the setuptools that is pinned here, not the newest of the day.
    session.install(*CONSTRAINTS, "setuptools")
    project = ".[parity,peers,tests,types]"
    session.install(*CONSTRAINTS, "--no-build-isolation", "-e", project, silent=False)
    installed.write_text(wanted.hexdigest())


def run_python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run the shared environment's python, with the environment's programs first on PATH.

    Args:
        env: variables for it; what the user has set stays
    """
    programs = session.cache_dir.parent / "environment" / ("Scripts" if sys.platform == "win32" else "bin")
    path = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])
    # Waiting threads sleep soon instead of spinning: where other work shares the cores, spinning takes the time that
    # the thread waited for needs, and small models become many times slower.
    variables = {"GOMP_SPINCOUNT": "3000", **(env or {})}
    variables = {name: os.environ.get(name, value) for name, value in variables.items()}
    # After Ctrl-C nox would kill it in half a second: what it was told, and keeps, needs a little longer to be written.
    patience = {"interrupt_timeout": 4.0, "terminate_timeout": 2.0}
    session.run(str(programs / "python"), *arguments, external=True, env={"PATH": path, **variables}, **patience)


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the tests, less what is marked slow, multiproc or net. `-- -k parity` runs only the proofs."""
    run_python(session, "-m", "pytest", *SPREAD, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", requires=["environment"])
def slow(session: nox.Session) -> None:
    """Run the tests that take long or start several processes."""
    marked = ("-m", "slow or multiproc", "--durations=25")
    run_python(session, "-m", "pytest", *SPREAD, *marked, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", requires=["environment"])
def compare(session: nox.Session) -> None:
    """Put the models side by side: how far apart they are, then how fast. `-- --help` lists the options."""
    run_python(session, "-m", "bench", "compare", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def bench(session: nox.Session) -> None:
    """Measure every rung and peer on every device: tokens/sec, memory, roofline. `-- --quick` takes two minutes."""
    run_python(session, "-m", "pytest", "bench/suite", "--benchmark-columns=median,iqr,rounds", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def machines(session: nox.Session) -> None:
    """Run tests, training and a comparison as if on other machines, without bfloat16 for one. `-- NAME` for some."""
    run_python(session, "-m", "tests.machines", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def report(session: nox.Session) -> None:
    """Make a page, pictures and tables of the results in bench/results: build/report. `-- --help` lists the options."""
    run_python(session, "-m", "bench", "report", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Plant small bugs all over the models, and list those that no test notices. Takes an hour or two."""
    session.install(*CONSTRAINTS, "setuptools")
    session.install(*CONSTRAINTS, "--no-build-isolation", "-e", ".[parity,tests,mutation]")
    # CI: hypothesis then takes the same examples for every mutant
    session.run("python", "-m", "mutmut", "run", *session.posargs, env={"CI": "1", "OMP_NUM_THREADS": "1"})
    session.run("python", "-m", "tests.mutation.report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, the direction of imports and the workflows. `-- --fix` mends what ruff can."""
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
