"""`python -m bench compare|roofline|report|diff`."""

from __future__ import annotations

from reference.cli import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # while the rest is imported

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from traceback import print_exc
from typing import Any

import tyro

from bench.settings import (
    Compare,
    CompareBatches,
    CompareCandidate,
    CompareEvaluation,
    CompareGenerate,
    CompareStep,
    CompareWeights,
    Diff,
    MeasureRoofline,
    Report,
    Template,
)
from reference.cli.help_text import wrapped
from reference.cli.main import LOADING, finished, notes_of_warnings, wait_briefly
from reference.cli.progress import waiting

Options = (
    Compare
    | CompareBatches
    | CompareCandidate
    | CompareEvaluation
    | CompareGenerate
    | CompareStep
    | CompareWeights
    | Template
    | MeasureRoofline
    | Report
    | Diff
)

# compare's options that select what it does
KINDS: dict[str, Any] = {
    "--candidate": CompareCandidate,
    "--step": CompareStep,
    "--generate": CompareGenerate,
    "--evaluate": CompareEvaluation,
    "--batches": CompareBatches,
    "--weights": CompareWeights,
    "--template": Template,
}


def main(arguments: Sequence[str] | None = None, program: str = f"python -m {__package__}") -> int:
    """Run one command; returns the exit status.

    0 done, every proof passed; 1 a contender failed its proof, or an internal error; 2 an invalid request; 130 Ctrl-C,
    143 SIGTERM. For options that do not parse, tyro ends the process with 2. Where a user's code or weights are tested,
    1 says that they differ and nothing else: all other failures are 2.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    failure = 2 if KINDS.keys() & {argument.partition("=")[0] for argument in given} else 1
    with notes_of_warnings():
        try:
            return finished(lambda: obey(read_options(given, program), program), failure)
        except Exception:
            print_exc()
            return failure


def obey(options: Options, program: str) -> int:
    """Run the command that the options belong to."""
    with waiting(LOADING):
        command = command_of(options, program)
    return command(options)


def command_of(options: Options, program: str) -> Callable[[Any], int]:
    """The function of a command. Only this imports torch, so that --help and a typing error are quick."""
    match options:
        case CompareCandidate():
            from bench.candidate.command import compare_candidate

            return compare_candidate
        case CompareEvaluation():
            from bench.evaluation.command import compare_evaluation

            return compare_evaluation
        case CompareStep():
            from bench.training_step.command import compare_step

            return compare_step
        case CompareBatches():
            from bench.batches.command import compare_batches

            return compare_batches
        case CompareGenerate():
            from bench.text_generation.command import compare_generate

            return compare_generate
        case Template():
            from bench.candidate.template import write_template

            return write_template
        case CompareWeights():
            from bench.weights.command import compare_weights

            return compare_weights
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
    """Parse a command and its options; compare has others where one of `KINDS` is given."""
    given = {argument.partition("=")[0] for argument in arguments}
    commands: Any = {
        "compare": next((kind for option, kind in KINDS.items() if option in given), Compare),
        "roofline": MeasureRoofline,
        "report": Report,
        "diff": Diff,
    }
    commands = {name: wrapped(kind, arguments) for name, kind in commands.items()}
    options: Options = tyro.extras.subcommand_cli_from_dict(
        commands, args=arguments, prog=program, description="Compare, prove and measure GPT-2 models."
    )
    if isinstance(options, MeasureRoofline) and options.resume is not None:
        saved = saved_options(options.resume, program)
        return tyro.cli(MeasureRoofline, args=arguments[1:], default=saved, prog=f"{program} roofline")
    return options


def saved_options(path: Path, program: str) -> MeasureRoofline:
    """The options of a stopped run, as defaults for the command line that continues it."""
    from bench.journal import resume

    try:
        return MeasureRoofline.from_json(resume(path, "roofline", program).arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"--resume {path}: is damaged ({error}): start again without --resume") from None


if __name__ == "__main__":
    wait_briefly()
    interrupts.leave(main())
