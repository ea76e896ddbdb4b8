"""Help of options that wraps at the terminal's width, not where the source does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from docstring_parser import parse_from_object  # tyro's own way to read the text below a field
from tyro.conf import arg

T = TypeVar("T", bound=type[Any])


HELP = {"-h", "--help"}


def wrapped(options: T, arguments: Sequence[str]) -> T:
    """Join the lines of each option's help if help is asked for; returns the class.

    tyro begins a new line where a line of the source is indented, as every line but the first is. The texts are read
    from the source, which takes longer than all else that a command does before torch is imported.
    """
    if HELP.isdisjoint(arguments):
        return options
    for kind in options.__mro__[:-1]:
        for text in parse_from_object(kind).params:
            hint = kind.__annotations__.get(text.arg_name)
            if isinstance(hint, str) and text.description:  # joined once, it is no string any more
                words = " ".join(text.description.split())
                kind.__annotations__[text.arg_name] = Annotated[hint, arg(help=words)]
    return options
