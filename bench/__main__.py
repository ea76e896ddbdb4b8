"""`python -m bench compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from bench.settings import Compare
from reference.cli import complain, notes_of_warnings, wait_briefly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, and everything proven; 1 a contender failed its proof, or something failed that is nobody's mistake; 2 the
    user asked for what cannot be; 130 Ctrl-C. Options that cannot even be read end the process with 2, as tyro does it.
    """
    options = read_options(sys.argv[1:] if arguments is None else list(arguments))
    try:
        from bench.compare import compare

        with notes_of_warnings():
            return compare(options)
    except ValueError as error:
        return complain(error, status=2)
    except OSError as error:
        return complain(error, status=1)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def read_options(arguments: list[str]) -> Compare:
    """The command and its options."""
    # one command so far; subcommand_cli_from_dict keeps its name on the command line nevertheless
    commands: Any = {"compare": Compare}
    options: Compare = tyro.extras.subcommand_cli_from_dict(
        commands, args=arguments, prog="python -m bench", description="Measure the models of this project."
    )
    return options


if __name__ == "__main__":
    wait_briefly()
    sys.exit(main())
