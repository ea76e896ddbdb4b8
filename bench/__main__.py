"""`python -m bench compare|roofline|report|diff`."""

from __future__ import annotations

from reference.cli import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # while the rest is imported

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from bench.settings import Compare, CompareCandidate, Diff, MeasureRoofline, Report
from reference.cli.main import LOADING, finished, notes_of_warnings, wait_briefly
from reference.cli.progress import waiting

Options = Compare | CompareCandidate | MeasureRoofline | Report | Diff


def main(arguments: Sequence[str] | None = None, program: str = f"python -m {__package__}") -> int:
    """Run one command of the program that the user typed; returns the exit status.

    0 done, and everything proven; 1 a contender or a candidate failed its proof, or something failed that is nobody's
    mistake; 2 the user asked for what cannot be; 130 Ctrl-C, 143 SIGTERM. Options that cannot even be read end the
    process with 2, as tyro does it.
    """
    with notes_of_warnings():
        given = sys.argv[1:] if arguments is None else list(arguments)
        return finished(lambda: obey(read_options(given, program), program))


def obey(options: Options, program: str) -> int:
    """Run the command that the options are of."""
    with waiting(LOADING):
        command = command_of(options, program)
    return command(options)


def command_of(options: Options, program: str) -> Callable[[Any], int]:
    """The function of a command. Imports torch and what else the command needs: --help and a typing error do not."""
    match options:
        case CompareCandidate():
            from bench.candidate.command import compare_candidate

            return compare_candidate
        case MeasureRoofline():
            from bench.roofline.command import measure_roofline

            return partial(measure_roofline, command=f"{program} roofline")
        case Report():
            from bench.report.command import report

            return report
        case Diff():
            from bench.suite.diff import diff

            return diff
        case _:
            from bench.compare.command import compare

            return compare


def read_options(arguments: list[str], program: str) -> Options:
    """The command and its options, which for compare are others where a candidate is given."""
    given = any(argument == "--candidate" or argument.startswith("--candidate=") for argument in arguments)
    commands: Any = {
        "compare": CompareCandidate if given else Compare,
        "roofline": MeasureRoofline,
        "report": Report,
        "diff": Diff,
    }
    options: Options = tyro.extras.subcommand_cli_from_dict(
        commands, args=arguments, prog=program, description="Measure the models of this project."
    )
    if isinstance(options, MeasureRoofline) and options.resume is not None:
        saved = saved_options(options.resume, program)
        return tyro.cli(MeasureRoofline, args=arguments[1:], default=saved, prog=f"{program} roofline")
    return options


def saved_options(path: Path, program: str) -> MeasureRoofline:
    """The options of a run that was stopped, as the defaults of the command line that goes on with it."""
    from bench.journal import resume

    try:
        return MeasureRoofline.from_json(resume(path, "roofline", program).arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"--resume {path}: is damaged ({error}): start anew, without --resume") from None


if __name__ == "__main__":
    wait_briefly()
    interrupts.leave(main())
