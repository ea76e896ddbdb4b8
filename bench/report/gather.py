"""Which result files there are, and what of them can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bench.environment import identity_in_words
from bench.report.chapter import View
from bench.report.contents import OF_A_RUN
from bench.suite.result_file import HOME, read, slug

REMEDY = "measure by nox -s bench in a checkout, or name a file"


@dataclass(frozen=True)
class Run:
    """One result file and everything that is shown of it."""

    path: Path
    name: str  # of its files: its device's, and its time if the device has several
    device: str  # its identity, for people
    when: str
    software: str
    quick: bool
    views: dict[str, tuple[View, ...]]

    @property
    def title(self) -> str:
        """What tells it from other runs of its device."""
        return f"{self.when}, {self.software}{', a quick run' if self.quick else ''}"


def result_files(given: Sequence[Path]) -> list[Path]:
    """The files that were given, and those in folders that were; those of bench/results/ if nothing was.

    Raises ValueError, one line, where there is none.
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


def run_of(path: Path) -> Run:
    """Read a result file and make all that is shown of it. Raises ValueError, one line, for what is none."""
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
            quick=bool(result["arguments"]["quick"]),
            views={key: chapter.views(result) for key, chapter in OF_A_RUN.items()},
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: is damaged, or not written by the suite ({what}): measure again") from error


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """The same, device by device and the newest last, each with a name of its own."""
    found: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.name, run.when)):
        name = run.name
        if sum(other.name == run.name for other in runs) > 1:
            name = f"{run.name}-{''.join(filter(str.isdigit, run.when))}"
        while name in {other.name for other in found}:
            name += "-again"
        found.append(replace(run, name=name))
    return found
