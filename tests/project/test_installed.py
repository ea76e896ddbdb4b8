"""The wheel, installed in an empty environment beside a project that has a `bench` of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project.test_dependencies import imported_names
from wheel_backend import BELOW

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SHAPE = ("--layers", "1", "--heads", "1", "--width", "8", "--block", "8", "--batch-size", "4")
HERE = ("--device", "cpu", "--threads", "1")
NO_RUNGS = ("--recipe", "plain")  # nothing is compiled

OWN_BENCH = """
def seconds() -> float:
    return 1.5
"""
TESTS = """
import pytest
from paritygpt import assert_same

from bench import seconds


def test_our_bench_is_ours():
    assert seconds() == 1.5


def test_our_gpt_is_gpt2():
    assert_same("my_gpt.py:build", layout="nanogpt", steps=2)


def test_the_other_is_not():
    with pytest.raises(AssertionError, match="GELU in its exact erf form"):
        assert_same("erf_gelu.py:build", layout="nanogpt", steps=2)
"""


def pip(*arguments: object) -> None:
    """Run pip without a network."""
    command = [
        sys.executable,
        "-m",
        "pip",
        *map(str, arguments),
        "--no-index",
        "--no-deps",
        "--no-cache-dir",
        "--quiet",
    ]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def clean(**more: str) -> dict[str, str]:
    """The environment variables without those that would show an installation what is in this checkout."""
    hidden = ("PYTHON", "PYTEST_", "VIRTUAL_ENV", "PIP_", "COVERAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | more


def built(source: Path, folder: Path) -> Path:
    """The wheel of a checkout or of an unpacked source archive."""
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@dataclass(frozen=True)
class Installation:
    programs: Path  # the folder of them
    packages: Path  # site-packages

    def run(
        self, *command: object, cwd: Path, status: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its programs; a failure if it ends with another status."""
        program, *arguments = map(str, command)
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=cwd,
            env=clean(OMP_NUM_THREADS="1", COLUMNS="100", **(env or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An environment with the wheel, and with the packages of this environment but for ParityGPT.

    The folders of those are on its path by a .pth file. The .pth files in them are not read, by which an installation
    with -e would show it this checkout.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], env=clean(), check=True, timeout=120)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    (packages,) = folder.rglob("site-packages")
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    pip("--python", programs / "python", "install", "--no-compile", wheel)
    return Installation(programs, packages)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, with a `bench` and two GPTs."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text(OWN_BENCH)
    (tmp_path / "bench" / "parity.py").write_text("raise RuntimeError('this is the parity of another bench')\n")
    for name in ("my_gpt.py", "erf_gelu.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    (tmp_path / "test_my_gpt.py").write_text(TESTS)
    return tmp_path


def test_the_wheel_has_no_name_but_paritygpt_and_everything_below_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (top_level,) = [name for name in archive.namelist() if name.endswith("top_level.txt")]
        assert archive.read(top_level).decode().split() == ["paritygpt"]
    assert {name.partition("/")[0] for name in names} == {"paritygpt"}
    expected = {
        path.relative_to(ROOT)
        for package in BELOW
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("test_") and path.name != "conftest.py"
    }
    assert {Path("bench/timing/worker.py"), Path("optimized/gpt.py"), Path("reference/lessons/bpe.py")} <= expected
    found = {Path(*Path(name).parts[1:]) for name in names if name.endswith(".py")}
    assert found == {*expected, Path("__init__.py"), Path("__main__.py")}
    files = {name for name in names if not name.endswith(".py")}
    assert files == {
        "paritygpt/py.typed",
        *(f"paritygpt/bench/pages/{name}" for name in ("base.html", "style.css")),
        *(f"paritygpt/bench/report/page.{ending}" for ending in ("html", "js")),
        *(f"paritygpt/bench/user_code/{name}.html" for name in ("report_page", "text_page")),
        "paritygpt/bench/candidate/page.html",
        *(f"paritygpt/docs/{name}.json" for name in ("bugs", "parity")),
    }


def test_no_module_of_the_wheel_imports_a_package_by_its_name_in_a_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    imports = {str(path.relative_to(tmp_path)): imported_names(path) for path in tmp_path.rglob("*.py")}
    assert "paritygpt" in imports[str(Path("paritygpt", "bench", "parity.py"))]
    strays = {name: names & {*BELOW} for name, names in imports.items() if names & {*BELOW}}
    assert not strays


def test_help_and_version_are_told_without_torch_numpy_or_tyro(installation: Installation, tmp_path: Path) -> None:
    assert installation.run("paritygpt", "--version", cwd=tmp_path).stdout == f"paritygpt {VERSION}\n"
    for option in ("--help", "--version"):
        done = installation.run("python", "-X", "importtime", "-m", "paritygpt", option, cwd=tmp_path)
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "paritygpt" in imported
        assert not imported & {"torch", "numpy", "tyro", "rich", "psutil"}


@pytest.mark.slow
def test_assert_same_works_in_the_tests_of_a_project_that_has_a_bench(
    installation: Installation, project: Path
) -> None:
    done = installation.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "3 passed" in done.stdout


@pytest.mark.slow
def test_it_trains_and_what_it_says_to_do_next_can_be_done(installation: Installation, project: Path) -> None:
    train = ("train", "--corpus", "counting", "--steps", "2", *SHAPE, *HERE, *NO_RUNGS, "--out", "run")
    said = installation.run("paritygpt", *train, cwd=project).stdout.splitlines()[-1]
    next_command = re.fullmatch(r"Next: (paritygpt sample run)   or   (paritygpt plot attention run)", said)
    assert next_command, said
    text = installation.run(
        *next_command[1].split(), "--tokens", "20", *NO_RUNGS, "--device", "cpu", cwd=project
    ).stdout
    assert len(text) == len("\n") + 20


@pytest.mark.slow
def test_a_command_that_needs_a_checkout_says_so_in_a_line(installation: Installation, tmp_path: Path) -> None:
    done = installation.run("paritygpt", "report", cwd=tmp_path, status=2)
    assert done.stdout == ""
    assert re.fullmatch(  # after what is said while it loads
        r"error: .*paritygpt.bench.results: is not there: measure by nox -s bench in a checkout, or name a file",
        done.stderr.splitlines()[-1],
    )


@pytest.mark.slow
def test_report_shows_a_result_with_the_proofs_of_this_release(installation: Installation, tmp_path: Path) -> None:
    result = next((ROOT / "bench" / "results").glob("*.json"))
    done = installation.run("paritygpt", "report", result, cwd=tmp_path)
    assert "error: " not in done.stderr, "nothing but progress"
    page = (tmp_path / "build" / "report" / "index.html").read_text()
    assert "fused_qkv" in page
    assert "cannot be read" not in page


@pytest.mark.slow
def test_every_module_can_be_imported_and_none_is_there_by_another_name(
    installation: Installation, project: Path
) -> None:
    """Contenders too, whose modules are named in a table."""
    code = f"""
import importlib, pkgutil, sys
import paritygpt
from paritygpt.bench.contenders import CONTENDERS, missing
needing = {{one.module for name, one in CONTENDERS.items() if missing(name)}}
for module in pkgutil.walk_packages(paritygpt.__path__, "paritygpt."):
    if module.name.rpartition(".")[2] != "__main__" and module.name not in needing:
        importlib.import_module(module.name)
named = {{one.module for one in CONTENDERS.values() if one.module}}
assert all(name.startswith("paritygpt.bench.") for name in named), named
assert named - needing <= sys.modules.keys()
assert not {{name.partition(".")[0] for name in sys.modules}} & {{*{BELOW}}}
for name in paritygpt.__all__:
    getattr(paritygpt, name)
"""
    installation.run("python", "-c", code, cwd=project)


@pytest.mark.slow
def test_compare_times_contenders_in_processes_of_their_own_those_of_other_libraries_too(
    installation: Installation, project: Path
) -> None:
    quick = ("--size", "tiny", "--seconds", "0", "--rounds", "3", "--steps", "2", "--new-tokens", "2", "--no-bias")
    names = ("reference", "huggingface-sdpa", "x-transformers", "plain")
    compare = ("compare", *quick, "--contenders", *names, *HERE, "--json", "compare.json")
    installation.run("paritygpt", *compare, cwd=project)
    found = json.loads((project / "compare.json").read_text())
    assert [one["contender"] for one in found["parity"] if one["passed"]] == list(names)
    assert {one["contender"] for one in found["cases"]} == set(names)
    assert all(len(one["seconds"]) == 3 for one in found["cases"] if one["task"] == "training_step")


@pytest.mark.slow
@pytest.mark.multiproc
def test_several_processes_share_a_run_under_torchrun(installation: Installation, project: Path) -> None:
    train = ("train", "--corpus", "counting", "--steps", "2", *SHAPE, *HERE, *NO_RUNGS, "--with", "ddp", "--out", "run")
    torchrun = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "paritygpt")
    said = installation.run(*torchrun, *train, cwd=project, env={"GLOO_SOCKET_IFNAME": "lo"}).stdout
    assert "2 processes with 2 each" in said
    assert said.splitlines()[-1].startswith("Next: python -m paritygpt sample run")


@pytest.mark.slow
def test_the_wheel_of_a_source_archive_is_that_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    code = f"import wheel_backend; print(wheel_backend.build_sdist({str(tmp_path)!r}))"
    copy = tmp_path / "checkout"  # setuptools writes into the folder that it makes an archive of
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "runs", "mutants", "__pycache__"))
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=clean(), capture_output=True, check=True, timeout=120)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = built(source, tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    """What is in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
