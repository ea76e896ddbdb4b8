"""What pyproject.toml asks for, what constraints.txt pins, and what the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LINES = [line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
DIRECT = [Requirement(line) for line in LINES]
BUILD = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]


def pins() -> dict[str, Version]:
    """Canonical name -> version, from constraints.txt; any other kind of line fails."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([^\s=]+)", line)
        assert match, f"constraints.txt: {line!r} is not `name==version` with a canonical name"
        assert match[1] not in found, f"constraints.txt pins {match[1]} twice"
        found[match[1]] = Version(match[2])
    return found


@pytest.mark.parametrize("requirement", LINES)
def test_every_requirement_states_its_reason_beside_it(requirement: str) -> None:
    beside = re.findall(rf'^    "{re.escape(requirement)}",(.*)$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert len(beside) == 1, f"{requirement} stands on {len(beside)} lines of its own in pyproject.toml"
    assert re.search(r"# \w.{10,}", beside[0]), f"no reason beside {requirement} in pyproject.toml"


@pytest.mark.parametrize("requirement", [*DIRECT, *BUILD], ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_inside_its_range(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"constraints.txt has no version of {requirement.name}"
    assert pinned in requirement.specifier, f"{requirement.name}=={pinned} is outside {requirement.specifier}"


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_range_is_open_to_patches_and_closed_to_the_next_break(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators, f"{requirement} has no lower bound"
    assert "==" not in operators, f"{requirement} is pinned: exact versions belong in constraints.txt"


@pytest.mark.parametrize("name,version", [("torch", "2.13.0"), ("transformers", "5.17.0"), ("transformers", "5.24.0")])
def test_the_ranges_admit_the_releases_that_must_work(name: str, version: str) -> None:
    (requirement,) = [requirement for requirement in DIRECT if requirement.name == name]
    assert version in requirement.specifier, f"{requirement} leaves out {version}"


@pytest.mark.parametrize("version", ["3.11.0", "3.12.3", "3.13.0"])
def test_the_supported_pythons_are_admitted(version: str) -> None:
    assert version in SpecifierSet(PROJECT["requires-python"])
    python = ".".join(version.split(".")[:2])
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert f'"{python}"' in (ROOT / ".github/workflows/ci.yml").read_text(), f"the workflow leaves out Python {python}"


def test_torch_is_pinned_to_the_release_that_the_published_numbers_come_from() -> None:
    assert pins()["torch"] == Version("2.13.0")
    assert pins()["torch"].local is None, "a local label would shut out the other builds of the same release"


def test_what_the_packages_import_is_a_declared_requirement() -> None:
    """Not merely something that another requirement happens to bring."""
    optional = [line for extra in ("parity", "peers", "keras") for line in EXTRAS[extra]]
    declared = {canonicalize_name(Requirement(line).name) for line in (*PROJECT["dependencies"], *optional)}
    ours = {"reference", "optimized", "bench", "paritygpt"}
    distributions = packages_distributions()
    strays = []
    for path in sorted(path for package in ours for path in (ROOT / package).rglob("*.py")):
        if path.name.startswith("test_") or path.name == "conftest.py":
            continue
        for name in imported_names(path) - ours - sys.stdlib_module_names:
            # what is not installed is taken for one of its own name
            providers = {canonicalize_name(provider) for provider in distributions.get(name, [name])}
            if not providers & declared:
                strays.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not strays, f"not in pyproject.toml: {', '.join(strays)}"


def imported_names(path: Path) -> set[str]:
    """First part of the name of every module that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
