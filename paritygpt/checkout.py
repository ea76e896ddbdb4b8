"""In a checkout: `paritygpt.reference` is the module `reference` that lies beside, and so is everything below it.

One module under two names, not two copies of it: a class is the same class, however it was imported. The wheel leaves
this file out, as the packages lie below `paritygpt` there.
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
    """Gives a module that has been imported by its own name."""

    def __init__(self, own_name: str) -> None:
        self.own_name = own_name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself; the import system is about to give it the spec of the alias."""
        module = import_module(self.own_name)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: it has been."""
        module.__spec__ = self.own_spec

    def get_code(self, fullname: str) -> CodeType | None:
        """The code, for `python -m paritygpt.reference`."""
        spec = find_spec(self.own_name)
        return spec.loader.get_code(self.own_name) if spec and isinstance(spec.loader, InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        """The text, for tracebacks of the same."""
        spec = find_spec(self.own_name)
        return spec.loader.get_source(self.own_name) if spec and isinstance(spec.loader, InspectLoader) else None


class Beside(MetaPathFinder):
    """Finds `paritygpt.NAME` and what is below it for the names of packages beside this one."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """An alias, if there is such a module."""
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
    """Have the packages found as `paritygpt.NAME` too.

    Raises ImportError, one line, where one of the names means something else than the package of this checkout: then a
    checkout that is installed with -e cannot be used, and an installation can.
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
