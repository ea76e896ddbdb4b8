"""Find result files, read them, and make the views of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bench.environment import identity_in_words
from bench.report.all_sections import RUN_SECTIONS
from bench.report.section import View
from bench.suite.result_file import HOME, read, slug

REMEDY = "measure by nox -s bench in a checkout, or name a file"


@dataclass(frozen=True)
class Run:
    """One result file and its views."""

    path: Path
    name: str  # of its folder: its device, and its time if the device has several runs
    device: str  # its identity in words
    when: str
    software: str
    quick: bool
    views: dict[str, tuple[View, ...]]

    @property
    def title(self) -> str:
        """Time and software, which differ among the runs of a device."""
        return f"{self.when}, {self.software}{', a quick run' if self.quick else ''}"


def load_results(given: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read the given result files, see `result_files`.

    Returns the runs, device by device and the newest last, and a line for each file that cannot be shown.
    """
    runs: list[Run] = []
    refused: list[str] = []
    for path in result_files(given):
        try:
            runs.append(load_result(path))
        except ValueError as error:
            refused.append(str(error))
    return with_unique_names(runs), refused


def result_files(given: Sequence[Path]) -> list[Path]:
    """The given files and the files in given folders; the files of bench/results/ if nothing is given.

    Raises ValueError, one line, for a folder without results.
    """
    found: list[Path] = []
    for path in given or (HOME,):
        if path.is_dir():
            inside = sorted(path.glob("*.json"))
            if not inside:
                raise ValueError(f"{path}: has no result file (*.json): {REMEDY}")
            found += inside
        elif path == HOME:
            raise ValueError(f"{path}: is not there: {REMEDY}")
        else:
            found.append(path)
    return list({path.resolve(): path for path in found}.values())


def load_result(path: Path) -> Run:
    """Read a result file and make its views. Raises ValueError, one line, for a file that is no whole result."""
    result = read(path)
    try:
        where = result["environment"]
        packages = [f"{name} {version}" for name, version in where["packages"].items() if version]
        commit, plus, changes = (where["commit"] or "").partition("+")
        source = [f"commit {commit[:10]}{plus}{changes}"] if commit else []
        return Run(
            path=path,
            name=slug(where),
            device=identity_in_words(where["identity"]),
            when=f"{datetime.fromisoformat(result['started']):%Y-%m-%d %H:%M}",
            software=", ".join([*packages, *source]),
            quick=bool(result["arguments"].get("quick")),
            views={key: section.views(result) for key, section in RUN_SECTIONS.items()},
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: is damaged, or no result of bench or compare ({what}): measure again") from error


def with_unique_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, device by device and the newest last, each with a name of its own."""
    named: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.name, run.when)):
        name = run.name
        if sum(other.name == run.name for other in runs) > 1:
            name = f"{run.name}-{''.join(filter(str.isdigit, run.when))}"
        while name in {other.name for other in named}:
            name += "-again"
        named.append(replace(run, name=name))
    return named
