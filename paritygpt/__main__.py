"""The program `paritygpt`, also as `python -m paritygpt` and under `torchrun -m paritygpt`: all commands.

Each command imports only what it needs, so that --help and --version are instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

HELP = """\
usage: {program} COMMAND [OPTION ...]

A readable GPT-2, a fast GPT-2, and the proof that they are the same model.

train      train a GPT on a text
sample     generate text from a trained model
eval       evaluate a trained model: loss, perplexity and bits
plot       plot the loss of runs, or the inside of a model
compare    prove models equal, then time them;
           with --candidate FILE.py:build, test your own GPT;
           with --step FILE.py:build_step, test your own training step;
           with --generate FILE.py:generate, your own text generator;
           with --batches FILE.py:build_batches, your own data loader;
           with --evaluate FILE.py:evaluate, your own validation loss;
           with --template FILE.py:CLASS, write a build function for it;
           with --weights A --against B, compare two checkpoints
roofline   measure the peak FLOP/s and bandwidth of this device
report     make a page, pictures and tables from result files
diff       show what changed between two result files
reference  train, sample, eval or plot with the readable GPT-2
optimized  the same with the fast GPT-2, which is the default

{program} COMMAND --help lists the options of a command.
-h, --help: show this; --version: show the version.
"""


def readable(program: str, arguments: Sequence[str]) -> int:
    """A command of `reference`."""
    from dataclasses import replace

    from reference.__main__ import PACKAGE
    from reference.cli.main import main

    return main(replace(PACKAGE, program=program), arguments)


def fast(program: str, arguments: Sequence[str]) -> int:
    """A command of `optimized`, alone or as one of several processes."""
    from dataclasses import replace

    from optimized.__main__ import PACKAGE, start

    return start(arguments, replace(PACKAGE, program=program))


def measuring(program: str, arguments: Sequence[str]) -> int:
    """A command of `bench`."""
    from bench.__main__ import main

    return main(arguments, program)


COMMANDS: dict[str, Callable[[str, Sequence[str]], int]] = {
    **dict.fromkeys(("train", "sample", "eval", "plot"), fast),
    **dict.fromkeys(("compare", "roofline", "report", "diff"), measuring),
}
SIDES: dict[str, Callable[[str, Sequence[str]], int]] = {"reference": readable, "optimized": fast}


def main(arguments: Sequence[str], program: str) -> int:
    """Run one command; returns the exit status.

    0 done; 1 a proof or an operation failed; 2 invalid request; 130 Ctrl-C.
    """
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(HELP.format(program=program), end="")
        return 0
    if first == "--version":
        from reference.cli.version import own_version

        print(f"paritygpt {own_version()}")
        return 0
    if first not in COMMANDS and first not in SIDES:
        wrong = f"unknown command {first!r}" if first else "no command"
        print(f"error: {wrong}: give one of {', '.join((*COMMANDS, *SIDES))}", file=sys.stderr)
        return 2
    from reference.cli.main import wait_briefly

    wait_briefly()
    if first in SIDES:
        return SIDES[first](f"{program} {first}", arguments[1:])
    return COMMANDS[first](program, arguments)


def console() -> NoReturn:
    """The program `paritygpt`."""
    run("paritygpt")


def run(program: str) -> NoReturn:
    """Run the command of this process, and end it."""
    from reference.cli import interrupts

    interrupts.end_at_once()  # while the rest is imported
    interrupts.leave(main(sys.argv[1:], program))


if __name__ == "__main__":
    run(f"python -m {__package__}")
