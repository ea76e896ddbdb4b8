"""`python -m tests.bugs.measure_users_files` tests users' files that have the 43 public bugs, and right ones.

Written are docs/users_files.json, and the table of docs/bugs.md made from it. --only N,N measures the rows of some bugs
and keeps the others; 0 is the right files.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from bench.__main__ import main as bench
from reference.cli.interrupts import end_at_once
from tests.bugs.measure import write_document
from tests.bugs.users_files import FILES, RIGHT, UsersFile, said
from tests.bugs.users_table import RECORD, Row, read_rows, summary, table


def main() -> None:
    """Measure, and write record and document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="numbers of bugs, such as 13,27: measure their rows alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = None if options.only is None else {int(number) for number in options.only.split(",")}
    files = [one for one in (*FILES, *RIGHT) if chosen is None or one.bug in chosen]
    rows = [measured(one) for one in track(files, "users' files", console=Console(stderr=True))]
    print("\n".join(table(rows)))
    if chosen is not None:
        found = {row.key: row for row in (*read_rows(), *rows)}
        keys = [(one.bug, one.what, one.kind, one.shown) for one in (*FILES, *RIGHT)]
        rows = [found[key] for key in keys if key in found]
    RECORD.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    write_document()
    print(summary(rows))


def measured(file: UsersFile) -> Row:
    """Test a user's file by its command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        status, seconds, shown, result = run(file, folder)
    causes = said(result) if result else []
    first = re.sub(r"[^\s(]*/(\w+\.py)", r"\1", causes[0]) if causes else ""  # without the folder
    named = bool(causes) and any(words in causes[0] for words in file.named) and in_report(causes[0], shown)
    return Row(file.bug, file.what, file.kind, file.shown, status, named, first, round(seconds, 1))


def run(file: UsersFile, folder: Path) -> tuple[int, float, str, dict[str, Any]]:
    """Run a file's command: exit status, seconds of CPU time, report, and result."""
    result = folder / "result.json"
    before, shown = cpu(), io.StringIO()
    with redirect_stdout(io.StringIO()):
        arguments = file.command(folder)
    with redirect_stdout(shown), redirect_stderr(io.StringIO()):
        status = bench([*arguments, "--json", str(result)])
    if status > 2:  # Ctrl-C, or a signal to end
        raise SystemExit(status)
    read = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    return status, cpu() - before, shown.getvalue(), read


def in_report(cause: str, shown: str) -> bool:
    """Whether a report has a cause; lines are broken anywhere."""
    return "".join(cause.split()) in "".join(shown.split())


def cpu() -> float:
    """CPU time of this process and of those that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    end_at_once()
    sys.exit(main())
