"""Run folders: name, settings, log, and the newest run.

runs/pydocs-20250131-120000/
  settings.json    every option, complete
  log.jsonl        one line for each log or validation interval
  loss.png         drawn from log.jsonl
  step-002000/     a checkpoint, see checkpoint.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

SETTINGS, LOG = "settings.json", "log.jsonl"
HOME = Path("runs")  # in the current directory


def new_run_folder(corpus: str, out: Path | None) -> Path:
    """Create the folder of a new run and return it.

    Args:
        corpus: the name starts with it if `out` is None; a file without its suffix
        out: the user's folder; must be new or empty
    """
    check_out(out)
    if out is not None:
        make_folder(out)
        return out
    name = f"{Path(corpus).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    make_folder(HOME)
    for number in range(1, 1000):  # another run may begin in the same second
        folder = HOME / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise ValueError(f"{HOME / name} and 999 more like it exist: give another folder with --out")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; ValueError with the reason if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from None


def check_out(out: Path | None) -> None:
    """Raise a ValueError if `out` holds anything."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder that is new or empty")
    if any(out.iterdir()):
        hint = f"resume it by --resume {out}" if is_run(out) else "nothing in it is overwritten"
        raise ValueError(f"--out {out}: is not empty; give a folder that is new or empty ({hint})")


def is_run(folder: Path) -> bool:
    """Whether a folder is a training run."""
    return (folder / SETTINGS).is_file()


def newest_run() -> Path:
    """The run in `runs/` with the latest log entry; ValueError if there is none."""
    runs = [folder for folder in HOME.glob("*") if is_run(folder)]
    if not runs:
        raise ValueError(f"no run in {str(HOME)!r} of the current directory: name a run's folder, or train one first")
    return max(runs, key=last_written)


def last_written(run: Path) -> float:
    """The time of a run's last log entry, or of its start if it has none."""
    file = run / LOG
    return (file if file.exists() else run / SETTINGS).stat().st_mtime


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    part = path.with_name(path.name + ".part")
    with errors_named(path):
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Inside, an OSError names the file: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run's log, in order, without a last line that a crash cut short."""
    path = run / LOG
    if not path.is_file():
        raise ValueError(f"{str(run)!r} has no {LOG}: give the folder of a training run")
    text = path.read_text(encoding="utf-8")
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{str(path)!r}, line {number}: is not a record of a training log") from None
        records.append(record)
    return records


class Log:
    """Appends records to a run's log, each flushed at once."""

    def __init__(self, run: Path, step: int) -> None:
        """Open the log of a run at `step`, and drop later records of an interrupted run."""
        self.path = path = run / LOG
        kept = [record for record in read_log(run) if record["step"] <= step] if path.exists() else []
        part = path.with_name(LOG + ".part")
        with errors_named(path):
            part.write_text("".join(map(to_line, kept)), encoding="utf-8")
        os.replace(part, path)
        self.validated = {record["step"] for record in kept if "validation_loss" in record}
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        """Add one record. Raises OSError with the file's name, for instance if the disk is full."""
        with errors_named(self.path):
            self._file.write(to_line(record))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def to_line(record: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(record) + "\n"
