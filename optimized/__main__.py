"""`python -m optimized train|sample|eval|plot`, also under torchrun."""

from __future__ import annotations

from reference.cli import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # while the rest is imported

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optimized.settings import Eval, Sample, Train
from reference.cli.main import Package, main, notes_of_warnings, wait_briefly

if TYPE_CHECKING:
    from reference.cli.backend import Backend


def backend(options: Any) -> Backend:
    """The recipe's backend, imported only when a command runs."""
    from optimized.backend import optimized_backend

    return optimized_backend(options)


PACKAGE = Package(
    f"python -m {__package__}",
    "A fast GPT-2: the same function as the reference, from optimized components.",
    backend,
    train=Train,
    sample=Sample,
    eval=Eval,
)


def start(arguments: Sequence[str] | None = None, package: Package = PACKAGE) -> int:
    """Run one command, alone or as one of several processes; returns the exit status."""
    with notes_of_warnings():
        if is_one_of_several():
            from optimized.launch import main as main_of_several

            interrupts.raise_again()
            return main_of_several(package, sys.argv[1:] if arguments is None else arguments)
        return main(package, arguments)


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


if __name__ == "__main__":
    wait_briefly()
    interrupts.leave(start())
