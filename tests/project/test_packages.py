"""No package of this project escapes the checks that pyproject.toml sets up."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests")


def test_the_packages_are_those_of_the_design() -> None:
    assert set(PACKAGES) == {"reference", "optimized", "bench", "paritygpt"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_installed_typed_and_held_to_the_arrows(package: str) -> None:
    assert f"{package}*" in TOOLS["setuptools"]["packages"]["find"]["include"]
    assert package in TOOLS["mypy"]["packages"], f"mypy does not look at {package}"
    assert package in TOOLS["importlinter"]["root_packages"], f"import-linter does not look at {package}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    """Else it would be left out of an installation, and out of sight of import-linter."""
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    bare = sorted(str(path.relative_to(ROOT)) for path in folders if not (path / "__init__.py").is_file())
    assert not bare, f"no __init__.py in {', '.join(bare)}"
