"""What a mutant is, and how it gets into code that knows nothing of it.

A mutant is a few words of the source changed for others. The function is compiled anew from its changed source and its
`__code__` exchanged, so that whoever imported it by name runs the changed one too; afterwards it is put back.
"""

from __future__ import annotations
import __future__ as future

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.bugs.checks import Check
    from tests.bugs.sides import Side

# What a model with this kind of bug gets wrong shows in `model(ids)` or `model.loss(ids, targets)`, if one looks well.
IN_MODEL = ("model", "loss", "conversion")
AROUND = (
    "cache",
    "optimizer",
    "schedule",
    "step",
    "ranks",
    "data",
    "sampling",
    "evaluation",
    "resume",
    "checkpoint",
    "initialisation",
)


@dataclass(frozen=True)
class Edit:
    """Words of one function's source, changed for others.

    Args:
        target: "package.module:function" or "package.module:Class.method"
        old: as it stands there, just once; lines as in the file, less the indentation of `def`
        new: what stands there instead; it may use what the module has imported
    """

    target: str
    old: str
    new: str


@dataclass(frozen=True)
class Constant:
    """A module's constant, changed for another value."""

    target: str  # "package.module:NAME"
    value: Any


@dataclass(frozen=True)
class Mutant:
    """One planted bug."""

    row: int  # of the list of real bugs, 1 to 43; from 44 on our own
    name: str  # what is wrong
    source: str  # where it was met
    part: str  # of the program: one of IN_MODEL or AROUND
    trigger: str  # what has to be there for it to show
    side: Side  # the reference, or a recipe of the optimized model
    check: Check  # that is meant to catch it
    changes: tuple[Edit | Constant, ...]

    @property
    def in_model(self) -> bool:
        """Whether whoever compares the outputs of two models might come across it."""
        return self.part in IN_MODEL

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Inside, the packages have this bug; afterwards they are as they were."""
        with pytest.MonkeyPatch.context() as patch:
            for target in dict.fromkeys(change.target for change in self.changes):
                changes = [change for change in self.changes if change.target == target]
                owner, name = owner_of(target)
                if isinstance(changes[0], Constant):
                    patch.setattr(owner, name, changes[0].value)
                else:
                    function = function_of(target)
                    words = [(change.old, change.new) for change in changes if isinstance(change, Edit)]
                    patch.setattr(function, "__code__", edited(function, words))
            yield


def owner_of(target: str) -> tuple[Any, str]:
    """The module or class that has the target, and its name there."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in classes:
        owner = getattr(owner, part)
    return owner, name


def function_of(target: str) -> FunctionType:
    """The function itself, without its decorators."""
    owner, name = owner_of(target)
    found = inspect.unwrap(getattr(owner, name))
    assert isinstance(found, FunctionType), f"{target} is no function but {type(found).__name__}"
    return found


def edited(function: FunctionType, words: list[tuple[str, str]]) -> CodeType:
    """The code of a function with some words of its source changed; a LookupError if one is not there just once."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in words:
        if source.count(old) != 1:
            where = f"{function.__module__}:{function.__qualname__}"
            raise LookupError(f"{where} has {old!r} {source.count(old)} times: the row of tests/bugs is out of date")
        source = source.replace(old, new)
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    free = function.__code__.co_freevars  # `__class__`, where a method says super()
    if free:
        outer = ast.parse("def outer():\n    pass\n")
        assert isinstance(outer.body[0], ast.FunctionDef)
        outer.body[0].body = [*ast.parse("\n".join(f"{name} = None" for name in free)).body, definition]
        tree = outer
    flags = future.annotations.compiler_flag
    code = compile(tree, f"<mutant of {function.__qualname__}>", "exec", flags=flags, dont_inherit=True)
    found = code_named(code, function.__name__)
    assert found.co_freevars == free, f"{function.__qualname__}: {found.co_freevars} are not those of the original"
    return found


def code_named(code: CodeType, name: str) -> CodeType:
    """The code of a function inside compiled code."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name:
                return constant
            if constant.co_name == "outer":
                return code_named(constant, name)
    raise LookupError(name)
