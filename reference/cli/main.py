"""The command line of a package: parse options, run the command, print a user's mistake as one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from reference.cli import interrupts
from reference.cli.help_text import wrapped
from reference.cli.options import Eval, Plot, Sample, Train
from reference.cli.progress import waiting
from reference.cli.streams import prepare_streams

if TYPE_CHECKING:
    from reference.cli.backend import Backend

LOADING = "loading PyTorch"
EXPECTED = (ValueError, ArithmeticError, OSError, KeyboardInterrupt)  # end a command without a traceback


@dataclass(frozen=True)
class Package:
    """A package's command line: its commands' options, and its backend."""

    program: str  # as typed by the user: "python -m reference", or "paritygpt"
    description: str
    backend: Callable[[Any], Backend]  # from a command's parsed options
    train: type[Train] = Train
    sample: type[Sample] = Sample
    eval: type[Eval] = Eval
    plot: type[Plot] = Plot


def main(package: Package, arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 success; 1 failure; 2 a user's mistake; 130 Ctrl-C; 143 SIGTERM. On options that cannot be parsed, tyro ends the
    process with 2.
    """
    return finished(lambda: run(package, sys.argv[1:] if arguments is None else list(arguments)))


def finished(command: Callable[[], int], failure: int = 1) -> int:
    """Run a command and return its exit status. An expected error is one line on standard error, without traceback.

    Args:
        failure: the status if a file cannot be read or written, or a computation fails; 2 where 1 says something else
    """
    prepare_streams()
    try:
        with interrupts.heeded():
            status = command()
            sys.stdout.flush()  # a full disk is an error of the command
            return status
    except BrokenPipeError:
        drop_output()
        return failure
    except EXPECTED as error:
        if isinstance(error, OSError) and error.filename is None:
            drop_output()
        return complain(error, status_of(error, failure))


def drop_output() -> None:
    """Send what standard output still holds to the null device; Python would complain when it exits."""
    with suppress(OSError, ValueError):  # in a test it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def wait_briefly() -> None:
    """Make torch's waiting threads sleep soon instead of spinning, unless the user has set OMP_WAIT_POLICY.

    On a busy machine, a spinning thread takes CPU time from the thread that it waits for. Read once, when torch is
    imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


@contextmanager
def notes_of_warnings() -> Iterator[None]:
    """Inside, print a UserWarning as one line, without its place in the code."""
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


def complain(error: BaseException, status: int) -> int:
    """Print an error as one line."""
    print(described(error), file=sys.stderr)
    return status


def described(error: BaseException) -> str:
    """An expected error as one line."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.farewell(str(error))
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"error: {error.object!a} has bytes that are no text in this locale: set PYTHONUTF8=1"
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return f"error: {error.strerror}"  # of a stream, whose name would be a number: a full disk
    return f"error: {' '.join(str(error).split())}"


def status_of(error: BaseException, failure: int = 1) -> int:
    """The exit status of an error; `failure` if it is neither a user's mistake nor a signal."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.status_of(error)
    return 2 if isinstance(error, ValueError) else failure


def run(package: Package, arguments: list[str]) -> int:
    """Parse the options and run their command."""
    options = read_options(package, arguments)
    with waiting(LOADING):
        backend, command = replace(package.backend(options), program=package.program), command_of(options)
    return command(options, backend)


def obey(options: Train | Sample | Eval | Plot, backend: Backend) -> int:
    """Run the command of these options."""
    return command_of(options)(options, backend)


def command_of(options: Train | Sample | Eval | Plot) -> Callable[[Any, Backend], int]:
    """The function of a command. Imports torch, which --help and mistyped options do not need."""
    match options:
        case Train():
            from reference.cli.train import train

            return train
        case Sample():
            from reference.cli.sample import sample

            return sample
        case Eval():
            from reference.cli.eval import evaluate

            return evaluate
        case _:
            from reference.cli.plot import plot

            return plot


def read_options(package: Package, arguments: list[str]) -> Train | Sample | Eval | Plot:
    """Parse the options of a command. For a resumed run, its saved settings are the defaults."""
    commands = {"train": package.train, "sample": package.sample, "eval": package.eval, "plot": package.plot}
    kinds: list[Any] = [
        Annotated[wrapped(kind, arguments), tyro.conf.subcommand(name)] for name, kind in commands.items()
    ]
    any_command: Any = Union[*kinds]
    options: Train | Sample | Eval | Plot = tyro.cli(
        any_command, args=arguments, prog=package.program, description=package.description
    )
    if isinstance(options, Train) and options.resume is not None:
        with waiting(LOADING):
            from reference.cli.train import saved_settings

        saved = saved_settings(options.resume, type(options))
        options = tyro.cli(type(options), args=arguments[1:], default=saved, prog=f"{package.program} train")
    return options
