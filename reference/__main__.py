"""`python -m reference train|sample|eval|plot`."""

from __future__ import annotations

from reference.cli import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # while the rest is imported

from typing import TYPE_CHECKING, Any

from reference.cli.main import Package, main, wait_briefly

if TYPE_CHECKING:
    from reference.cli.backend import Parts


def parts(options: Any) -> Parts:
    """The readable parts, imported when they are needed."""
    from reference.cli.backend import reference_parts

    return reference_parts(options)


PACKAGE = Package(
    f"python -m {__package__}", "A GPT-2 to read: train it, let it write, measure it, look inside.", parts
)


if __name__ == "__main__":
    wait_briefly()
    interrupts.leave(main(PACKAGE))
