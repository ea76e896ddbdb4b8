"""`python -m reference train|sample|eval|plot`."""

from __future__ import annotations

from reference.cli import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # while the rest is imported

from typing import TYPE_CHECKING, Any

from reference.cli.main import Package, main, wait_briefly

if TYPE_CHECKING:
    from reference.cli.backend import Backend


def backend(options: Any) -> Backend:
    """The readable backend, imported only when a command runs."""
    from reference.cli.backend import reference_backend

    return reference_backend(options)


PACKAGE = Package(f"python -m {__package__}", "A readable GPT-2: train, sample, evaluate and plot it.", backend)


if __name__ == "__main__":
    wait_briefly()
    interrupts.leave(main(PACKAGE))
