"""`python -m bench report`: a page, pictures and tables of results, of the suite or of compare."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bench.report.all_sections import all_sections
from bench.report.load_results import Run, load_results
from bench.report.markdown import document
from bench.report.page import page
from bench.report.pictures import PICTURES, png
from bench.report.proof_records import read_bugs, read_parity
from bench.report.section import Section
from bench.settings import Report
from reference.cli.progress import Stages, waiting

PAGE = "index.html"
Read = TypeVar("Read")


def report(options: Report) -> int:
    """Run the command; returns 0. A file that cannot be shown is one line on stderr, and the others are shown.

    Raises ValueError, one line, if no file can be shown or the report cannot be written.
    """
    options.check()
    with waiting("reading the results"):
        runs, refused = load_results(options.files)
    for line in refused:
        print(f"left out: {line}", file=sys.stderr)
    if not runs:
        raise ValueError(
            f"none of {len(refused)} result files can be shown: measure by nox -s bench in a checkout, or name others"
        )
    parity, bugs = or_line(read_parity, options.parity), or_line(read_bugs, options.bugs)
    for found_or_line in (parity, bugs):
        if isinstance(found_or_line, str):
            print(f"note: {found_or_line}", file=sys.stderr)
    found = all_sections([run.views for run in runs], parity, bugs)
    with Stages(options.page + len(runs) * len(PICTURES), even=True) as progress:
        written = write(options, runs, found, progress)
    for path in written:
        print(path)
    first = next(path for path in written if path.suffix in (".html", ".md"))
    print(f"Open {first}{' in a browser' if options.page else ''}.")
    return 0


def write(options: Report, runs: Sequence[Run], found: Sequence[Section], progress: Stages) -> list[Path]:
    """Write page, pictures and tables, and move them into place once all are written; returns their paths."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".report.", dir=options.out))
        try:
            if options.page:
                progress.stage("the page")
                (unfinished / PAGE).write_text(page(runs, found), encoding="utf-8")
            for number, run in enumerate(runs):
                folder = unfinished / run.name
                folder.mkdir()
                pictures = {}
                for key in PICTURES:
                    progress.stage(f"{run.name}: the picture {key}")
                    drawn = png(run.views[key][: PICTURES[key]])
                    if drawn is not None:
                        pictures[key] = f"{key}.png"
                        (folder / pictures[key]).write_bytes(drawn)
                (folder / "tables.md").write_text(document(run, number, found, pictures), encoding="utf-8")
            return put_into_place(unfinished, options.out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"cannot write into {str(options.out)!r}: {error.strerror}") from None


def or_line(read: Callable[[Path], Read], path: Path) -> Read | str:
    """The record of a file, or the line that says why it cannot be read."""
    try:
        return read(path)
    except ValueError as error:
        return str(error)


def put_into_place(unfinished: Path, out: Path) -> list[Path]:
    """Move finished files over those of the last report; returns their paths, the page first."""
    moved = []
    for path in sorted(unfinished.rglob("*"), key=lambda path: (len(path.relative_to(unfinished).parts), path)):
        if path.is_dir():
            continue
        target = out / path.relative_to(unfinished)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
        moved.append(target)
    return moved
