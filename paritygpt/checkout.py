"""In a checkout, make `paritygpt.reference` the module `reference` beside it, with all submodules.

One module under two names, not two copies: a class is the same class under both. Not part of the wheel, in which the
packages are inside `paritygpt`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

PREFIX = f"{__package__}."
ROOT = Path(__file__).parents[1]


class Alias(InspectLoader):
    """Loads a module by importing it under its own name."""

    def __init__(self, own_name: str) -> None:
        self.own_name = own_name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself; the import system then sets its spec to the alias's."""
        module = import_module(self.own_name)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; its code has run."""
        module.__spec__ = self.own_spec

    def get_code(self, fullname: str) -> CodeType | None:
        """The code, for `python -m paritygpt.reference`."""
        spec = find_spec(self.own_name)
        return spec.loader.get_code(self.own_name) if spec and isinstance(spec.loader, InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        """The source, for tracebacks of `python -m paritygpt.reference`."""
        spec = find_spec(self.own_name)
        return spec.loader.get_source(self.own_name) if spec and isinstance(spec.loader, InspectLoader) else None


class Beside(MetaPathFinder):
    """Finds `paritygpt.NAME` and its submodules for packages beside this one."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """An alias's spec, or None if there is no such module."""
        own_name = fullname.removeprefix(PREFIX)
        if own_name == fullname or own_name.partition(".")[0] not in self.packages:
            return None
        own_spec = find_spec(own_name)
        if own_spec is None:
            return None
        spec = ModuleSpec(fullname, Alias(own_name), origin=own_spec.origin)
        spec.submodule_search_locations = own_spec.submodule_search_locations
        return spec


def find_packages_beside(packages: Sequence[str]) -> None:
    """Make packages importable as `paritygpt.NAME` too.

    Raises ImportError if a name belongs to another package: then a checkout installed with -e does not work, but an
    ordinary installation does.
    """
    for name in packages:
        spec = find_spec(name)
        own = ROOT / name / "__init__.py"
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != own.resolve():
            found = "cannot be imported" if spec is None else f"is {spec.origin or 'a folder of another project'}"
            raise ImportError(
                f"{name!r} {found}, not {own}: beside a module of that name install ParityGPT without -e, by "
                f"`pip install {ROOT}`"
            )
    sys.meta_path.insert(0, Beside(packages))
