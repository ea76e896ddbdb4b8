"""Keep measurements on disk while a run measures, so that a stopped run can continue; write its result file.

The journal is a text file beside the result with a JSON object on each line: first the kind, machine, software and
options, then each measurement with its key. A line is on disk before the next measurement begins. The journal is
removed when the result is written. A run continues only on the same machine, with the same software and options:
measurements of two machines do not belong in one result.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.environment import machine_differences, software_differences

VERSION = 2
ENDING = ".partial"  # after the name of the result

Measure = Callable[[], Any]
# (kind of measurement, key as plain values, function that measures) -> the measurement, as plain values.
Keep = Callable[[str, Any, Measure], Any]


def without_journal(what: str, key: Any, measure: Measure) -> Any:
    """A `Keep` without a journal: measure each time."""
    return measure()


def partial_path(result: Path) -> Path:
    """The path of a result's journal."""
    return result.with_name(result.name + ENDING)


class Journal:
    """The journal of one run; `once` is a `Keep`. Nothing is written before the first measurement begins.

    Args:
        path: of the journal
        kind: of the result
        command: the command that continues the run, without "--resume FILE"
        environment: see bench/environment.py
        arguments: all options of the command, as plain values
        tell: called with lines for the user; default: a note on standard error
        kept: whether anything is written: without it, a stopped run cannot continue
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        command: str,
        environment: dict[str, Any],
        arguments: dict[str, Any],
        tell: Callable[[str], object] | None = None,
        kept: bool = True,
    ) -> None:
        self.path, self.kind, self.command, self.tell = path, kind, command, tell or note
        self.environment, self.arguments = environment, arguments
        self.started, self.start = datetime.now().astimezone(), time.monotonic()
        self.found: dict[str, Any] = {}
        self.resumed: list[str] = []  # local times at which the run was continued
        self.begun = False
        self.lost = not kept  # nothing is written to the file
        self.made: list[Path] = []  # folders made for the file, innermost first

    @property
    def seconds(self) -> float:
        """Seconds of measuring, without the time in which the run was stopped."""
        return time.monotonic() - self.start

    @property
    def words(self) -> str:
        """How to continue the run; empty if there is no journal."""
        if not self.begun or self.lost:
            return ""
        return f"continue with: {self.command} --resume {shlex.quote(str(self.path))}"

    def once(self, what: str, key: Any, measure: Measure) -> Any:
        """The kept measurement of a key; measure and keep it if there is none."""
        name = json.dumps([what, key])
        if name not in self.found:
            self.begin()
            # through JSON, so that a new measurement equals one that is read again
            self.found[name] = json.loads(json.dumps(measure()))
            self.append({"what": name, "found": self.found[name], "seconds": self.seconds})
        return self.found[name]

    def begin(self) -> None:
        """Write the first line, once."""
        if self.begun or self.lost:
            return
        self.begun = True
        self.made = [folder for folder in self.path.absolute().parents if not folder.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.tell(f"{self.path}, of a stopped run, is replaced")
                self.path.unlink()
        except OSError as error:
            self.lose(error)
        self.append(
            {
                "kind": self.kind,
                "version": VERSION,
                "started": self.started.isoformat(timespec="seconds"),
                "environment": self.environment,
                "arguments": self.arguments,
            }
        )
        if self.words:
            self.tell(f"measurements are kept on disk; if this run is stopped, {self.words}")

    def append(self, line: dict[str, Any]) -> None:
        """Write a line to the disk. If that fails, the run continues without a journal."""
        if self.lost:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.lose(error)

    def lose(self, error: OSError) -> None:
        """Tell the user that nothing more is kept."""
        self.lost = True
        self.tell(f"cannot write {self.path} ({error.strerror}): if this run is stopped, it cannot continue")

    def go_on(self) -> None:
        """Note that the run continues, and tell the user."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self.resumed.append(now)
        self.append({"resumed": now})
        known = "1 measurement" if len(self.found) == 1 else f"{len(self.found)} measurements"
        self.tell(f"continuing {self.path}: {known}")

    def remove(self) -> None:
        """Remove the file when the result is written, and the folders made for it if they are empty."""
        self.begun = False
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self.made:
                folder.rmdir()


def resume(path: Path, kind: str, command: str, tell: Callable[[str], object] | None = None) -> Journal:
    """Read the journal of a stopped run; see `Journal`. Raises ValueError, one line, if it is damaged or no journal.

    The caller compares its machine and software with `check_same`.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--resume {path}: cannot be read ({error.strerror})") from None
    complete = whole[: whole.rfind(b"\n") + 1]  # the last line may be incomplete
    try:
        head, *lines = [json.loads(line) for line in complete.decode("utf-8").splitlines()]
        if not isinstance(head, dict) or head.get("kind") != kind:
            raise ValueError("its first line does not match")
        journal = Journal(path, kind, command, head["environment"], head["arguments"], tell)
        journal.started = datetime.fromisoformat(head["started"])
        for line in lines:
            if "resumed" in line:
                journal.resumed.append(line["resumed"])
            else:
                journal.found[line["what"]] = line["found"]
                journal.start = time.monotonic() - line["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume {path}: is no journal of a stopped {kind} ({error}): start again without --resume"
        ) from None
    if head.get("version") != VERSION:
        raise ValueError(
            f"--resume {path}: is of version {head.get('version')!r}, this program writes {VERSION}: start again "
            "without --resume"
        )
    journal.begun = True
    if len(complete) < len(whole):
        with suppress(OSError):  # `append` tells the user
            os.truncate(path, len(complete))
    return journal


def check_same(journal: Journal, environment: dict[str, Any]) -> None:
    """Raise ValueError, one line, if the journal is of another machine or other software."""
    before, now = ({"environment": where} for where in (journal.environment, environment))
    machines = list(machine_differences(before, now))
    if machines:
        raise ValueError(
            f"--resume {journal.path}: was measured on another machine ({'; '.join(machines)}): start again here, "
            "without --resume"
        )
    changes = list(software_differences(before, now))
    if changes:
        raise ValueError(
            f"--resume {journal.path}: was measured with other software ({'; '.join(changes)}): start again without "
            "--resume"
        )


def note(line: str) -> None:
    """Print a note for the user on standard error."""
    print(f"note: {line}", file=sys.stderr)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result file atomically: an old file stays until the new one is on disk.

    Raises ValueError, one line, if it cannot be written: the exit status is then 2, as 1 means that models differ.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from None
        raise


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, as JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
