"""`python -m optimized train|sample|eval|plot`, also under torchrun."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optimized.settings import Eval, Sample, Train
from reference.cli import Package, main, wait_briefly

if TYPE_CHECKING:
    from reference.parts import Parts


def parts(options: Any) -> Parts:
    """The parts of the recipe, imported when they are needed."""
    from optimized.parts import optimized_parts

    return optimized_parts(options)


PACKAGE = Package(
    "optimized",
    "A GPT-2 to run: the same function, from fast parts.",
    parts,
    train=Train,
    sample=Sample,
    eval=Eval,
)


def start(arguments: Sequence[str] | None = None) -> int:
    """Run one command, alone or as one of several processes; returns the exit status."""
    with notes_of_warnings():
        if is_one_of_several():
            from optimized.launch import main as main_of_several

            return main_of_several(PACKAGE, sys.argv[1:] if arguments is None else arguments)
        return main(PACKAGE, arguments)


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def notes_of_warnings() -> Iterator[None]:
    """Inside, a warning that is meant for the user is one line, without the place in the code that it comes from."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category is UserWarning:
                print(f"note: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


if __name__ == "__main__":
    wait_briefly()
    sys.exit(start())
