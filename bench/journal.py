"""What a run has measured, on disk: while it measures, so that one that was stopped can go on, and as its result.

The journal is a text file beside the result, a JSON object on each line: first what is measured, where and with which
software, then everything that was measured, each with a key of its own. A line is on the disk before the next
measurement begins. When the result is written the journal is removed. Going on takes the same machine, the same
software and the same options: numbers of two of them do not belong into one result.
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
# From a word for what is measured, what tells it from all others (plain values), and how to measure it: what was found,
# as plain values.
Keep = Callable[[str, Any, Measure], Any]


def anew(what: str, key: Any, measure: Measure) -> Any:
    """Measure, and keep nothing."""
    return measure()


def partial_path(result: Path) -> Path:
    """Where the journal of a result lies."""
    return result.with_name(result.name + ENDING)


class Journal:
    """One run's; `once` is a `Keep`. Nothing is written before the first measurement begins.

    Args:
        path: where it lies
        kind: of the result
        command: that goes on, without "--resume FILE"
        environment: see bench/environment.py
        arguments: of the command, complete, as plain values
        tell: shows the user a line that is no error; a note on standard error if not given
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        command: str,
        environment: dict[str, Any],
        arguments: dict[str, Any],
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.path, self.kind, self.command, self.tell = path, kind, command, tell or note
        self.environment, self.arguments = environment, arguments
        self.started, self.start = datetime.now().astimezone(), time.monotonic()
        self.found: dict[str, Any] = {}
        self.resumed: list[str] = []  # local times at which it was gone on with
        self.begun = False
        self.lost = False  # it cannot be written
        self.made: list[Path] = []  # folders, the innermost first

    @property
    def seconds(self) -> float:
        """How long it has taken, without the time for which it was stopped."""
        return time.monotonic() - self.start

    @property
    def words(self) -> str:
        """How to go on, if there is something to go on with."""
        return (
            f"go on with: {self.command} --resume {shlex.quote(str(self.path))}" if self.begun and not self.lost else ""
        )

    def once(self, what: str, key: Any, measure: Measure) -> Any:
        """What was found the first time; measured now, and written down, if there is nothing yet."""
        name = json.dumps([what, key])
        if name not in self.found:
            self.begin()
            # through JSON: what was measured now is no other than what is read again
            self.found[name] = json.loads(json.dumps(measure()))
            self.append({"what": name, "found": self.found[name], "seconds": self.seconds})
        return self.found[name]

    def begin(self) -> None:
        """Write the first line, unless it is written."""
        if self.begun:
            return
        self.begun = True
        self.made = [folder for folder in self.path.absolute().parents if not folder.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.tell(f"{self.path}, of a run that was stopped, is replaced")
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
            self.tell(f"everything is kept as it is measured; if this is stopped, {self.words}")

    def append(self, line: dict[str, Any]) -> None:
        """Write a line, down to the disk. A disk that does not take it is no reason to stop measuring."""
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
        """Say that nothing more is kept."""
        self.lost = True
        self.tell(f"cannot write {self.path} ({error.strerror}): a run that is stopped now cannot go on")

    def go_on(self) -> None:
        """Note that a run goes on, and tell the user from where."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self.resumed.append(now)
        self.append({"resumed": now})
        known = "1 measurement is" if len(self.found) == 1 else f"{len(self.found)} measurements are"
        self.tell(f"going on with {self.path}: {known} there")

    def remove(self) -> None:
        """The result is written: remove the file, and the folders that were made for it if nothing else is in them."""
        self.begun = False
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self.made:
                folder.rmdir()


def resume(path: Path, kind: str, command: str, tell: Callable[[str], object] | None = None) -> Journal:
    """The journal that a run left; see `Journal`. Raises ValueError, one line, for what is none, or is damaged.

    It still has to be held against this machine: `check_same`.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--resume {path}: cannot be read ({error.strerror})") from None
    complete = whole[: whole.rfind(b"\n") + 1]  # the last line may have been cut off
    try:
        head, *lines = [json.loads(line) for line in complete.decode("utf-8").splitlines()]
        if not isinstance(head, dict) or head.get("kind") != kind:
            raise ValueError("its first line is another one")
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
            f"--resume {path}: is not what a {kind} that was stopped leaves ({error}): start anew, without --resume"
        ) from None
    if head.get("version") != VERSION:
        raise ValueError(
            f"--resume {path}: is of version {head.get('version')!r}, this program writes {VERSION}: start anew, "
            "without --resume"
        )
    journal.begun = True
    if len(complete) < len(whole):
        with suppress(OSError):  # what comes next is told then
            os.truncate(path, len(complete))
    return journal


def check_same(journal: Journal, environment: dict[str, Any]) -> None:
    """Raise ValueError, one line, if this is another machine than that of a journal, or has other software."""
    before, now = ({"environment": where} for where in (journal.environment, environment))
    machines = list(machine_differences(before, now))
    if machines:
        raise ValueError(
            f"--resume {journal.path}: was measured on another machine ({'; '.join(machines)}): start anew here, "
            "without --resume"
        )
    changes = list(software_differences(before, now))
    if changes:
        raise ValueError(
            f"--resume {journal.path}: was measured with other software ({'; '.join(changes)}): start anew, without "
            "--resume"
        )


def note(line: str) -> None:
    """Tell the user something that is not an error."""
    print(f"note: {line}", file=sys.stderr)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, whole or not at all: one that was there stays until the new one is on the disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """The same with None for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
