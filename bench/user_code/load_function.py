"""Load a function named on the command line: path/to/file.py:function, or package.module:function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch

from bench.formatting import one_line

SOURCE = "__source_when_loaded__"
STOPS = (KeyboardInterrupt, GeneratorExit)  # the exceptions that do not come from a user's code


def load_function(wanted: str, usual: str, what: str) -> Callable[..., Any]:
    """Load a function.

    Args:
        wanted: FILE.py:FUNCTION or MODULE:FUNCTION; without a colon, the function is named `usual`
        usual: the default name
        what: the option's name, for messages

    Raises ValueError, one line, if the file does not import or has no such function.
    """
    place, colon, name = wanted.rpartition(":")
    if not colon or not name.isidentifier():
        place, name = wanted, usual
    module = import_file(Path(place), what) if place.endswith(".py") else import_module(place, what)
    if not hasattr(module, name):
        own = [n for n, value in vars(module).items() if callable(value) and defined_in(value, module)]
        there = f"it defines {', '.join(own)}" if own else "it defines no function"
        raise ValueError(f"{what} {place}: has no {name!r}; {there}: name one after a colon, {place}:NAME")
    function = getattr(module, name)
    if not callable(function):
        raise ValueError(f"{what} {place}: {name!r} is a {type(function).__name__}: give a function")
    return function


def defined_in(value: Any, module: ModuleType) -> bool:
    """Whether a module defines a function or class itself, rather than importing it."""
    return getattr(value, "__module__", None) == module.__name__


def import_file(path: Path, what: str) -> ModuleType:
    """Import a file; it can import the files beside it, as a script can."""
    if not path.is_file():
        raise ValueError(f"{what} {path}: there is no such file")
    full = path.resolve()
    # a unique name, so that it hides no module; the same for the same file, as dataclasses need it
    name = f"{full.stem}_{hashlib.sha256(str(full).encode()).hexdigest()[:8]}"
    source = full.read_bytes()
    loaded = sys.modules.get(name)
    if loaded is not None and vars(loaded).get(SOURCE) == source:
        return loaded  # what it registers can often be registered only once
    spec = importlib.util.spec_from_file_location(name, full, loader=FromSource(name, str(full)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, SOURCE, source)
    sys.modules[name] = module
    try:
        with on_path(full.parent), undisturbed(str(path)), one_line_errors(f"{what} {path}", full):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class FromSource(SourceFileLoader):
    """Compiles a file at each import. Python would take its cached bytecode if size and second are the same."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file as it is now."""
        file = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(file), file)
        return code


def import_module(name: str, what: str) -> ModuleType:
    """Import a module by its dotted name, also from the current folder."""
    with on_path(Path.cwd()), undisturbed(name), one_line_errors(f"{what} {name}", None):
        return importlib.import_module(name)


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Inside the block, imports search a folder first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def undisturbed(program: str) -> Iterator[None]:
    """Inside the block, sys.argv is that of a script without arguments; afterwards, what a script may set is as before.

    A script may read the command line, change the current folder, or turn gradients off when it is imported.
    """
    argv, folder, gradients, dtype = sys.argv, Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()
    device = torch.get_default_device()
    sys.argv = [program]
    try:
        yield
    finally:
        sys.argv = argv
        os.chdir(folder)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)  # for cpu, torch needs no mode


@contextmanager
def one_line_errors(who: str, file: Path | None) -> Iterator[None]:
    """Turn an exception of imported code into a ValueError of one line, with its line number."""
    try:
        yield
    except STOPS:
        raise
    except BaseException as error:  # a script may end the process when imported, or raise pytest's Skipped
        raise ValueError(f"{who}: does not import: {one_line(error, file)}") from error
