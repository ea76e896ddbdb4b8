"""Builds the wheel, in which everything lies below `paritygpt/`: an installation takes one name, and hides no `bench`.

In a checkout `paritygpt`, `reference`, `optimized` and `bench` lie side by side and import each other by these names.
For a wheel they are copied into a folder, the latter three below the first, `from reference.gpt import GPT` becomes
`from paritygpt.reference.gpt import GPT`, and setuptools builds that folder. An installation with -e and a source
archive are the checkout as it is, made by setuptools alone.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

# What a front end may ask for. The metadata of a wheel is not among it: then it is read from the wheel.
__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]

ROOT = Path(__file__).parent
TOP, BELOW = "paritygpt", ("reference", "optimized", "bench")
SETTINGS = ("pyproject.toml", "README.md", "LICENSE")
DOCUMENTS = ("docs/parity.json", "docs/bugs.json")  # shown by `paritygpt report`
# Not for those who use it: the suite, which pytest runs in a checkout, and what a checkout alone needs.
LEFT_OUT = ("__pycache__", "test_*.py", "conftest.py", "checkout.py")


def build_wheel(
    wheel_directory: str, config_settings: Mapping[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel into a folder; returns its name. Raises ValueError for an import that cannot be rewritten."""
    wheels = Path(wheel_directory).absolute()
    with TemporaryDirectory() as folder:
        lay_out(ROOT, Path(folder))
        with chdir(folder):
            return str(build_meta.build_wheel(str(wheels), config_settings))


def lay_out(checkout: Path, folder: Path) -> None:
    """Copy what a wheel is made of, each file to where it will lie in it."""
    for name in SETTINGS:
        shutil.copy(checkout / name, folder)
    top = folder / TOP
    copy_package(checkout / TOP, top)
    for name in BELOW:
        copy_package(checkout / name, top / name)
    for name in DOCUMENTS:
        (top / name).parent.mkdir(exist_ok=True)
        shutil.copy(checkout / name, top / name)


def copy_package(package: Path, to: Path) -> None:
    """Copy a package with the packages in it, and with no other folder; its imports are rewritten."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        folders = {name for name in names if Path(folder, name).is_dir()}
        packages = {name for name in folders if Path(folder, name, "__init__.py").is_file()}
        return (folders - packages) | shutil.ignore_patterns(*LEFT_OUT)(folder, names)

    shutil.copytree(package, to, ignore=left_out)
    for path in to.rglob("*.py"):
        path.write_bytes(rewritten(path.read_bytes(), str(package / path.relative_to(to))))


def rewritten(source: bytes, name: str) -> bytes:
    """A module with its imports of the packages below `paritygpt` by their full names; nothing else is changed.

    Args:
        source: UTF-8
        name: for messages

    Raises ValueError, one line, for an import whose rewriting would mean something else.
    """
    # Line n of a syntax tree begins at byte starts[n - 1]; columns are bytes too.
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", source))]
    for line, column, text in sorted(insertions(source, name), reverse=True):
        place = starts[line - 1] + column
        source = source[:place] + text + source[place:]
    return source


def insertions(source: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """What to insert into a module: line, column and text."""
    prefix = f"{TOP}.".encode()
    lines = re.split(rb"\r\n|\r|\n", source)
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and is_below(node.module or ""):
            words = re.compile(rb"from[ \t]+(?=\w)").match(lines[node.lineno - 1], node.col_offset)
            if words is None:
                raise ValueError(
                    f"{name}, line {node.lineno}: cannot be rewritten: put `from` and its module on one line"
                )
            yield node.lineno, words.end(), prefix
        for alias in node.names if isinstance(node, ast.Import) else ():
            if not is_below(alias.name):
                continue
            if alias.asname is None and "." in alias.name:
                raise ValueError(
                    f"{name}, line {alias.lineno}: `import {alias.name}` would bind {TOP!r} once rewritten: give it a "
                    "name by `as`, or import from it"
                )
            yield alias.lineno, alias.col_offset, prefix
            if alias.asname is None:
                yield alias.lineno, alias.col_offset + len(alias.name), f" as {alias.name}".encode()


def is_below(module: str) -> bool:
    """Whether a module is one of those that lie below `paritygpt` in the wheel."""
    return module.partition(".")[0] in BELOW
