"""The result of each mutant: after `mutmut run`, `python -m tests.mutation.report` writes build/mutation.md.

docs/mutation.md is a copy of that page.

A mutant that no test notices is either untested code, or equivalent: it changes nothing observable. equivalent.toml
lists the equivalent ones, each with its reason. The exit status is 1 if there are others, or if fewer than 95 % of all
mutants were noticed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = Path("build", "mutation.md")
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
ENOUGH = 0.95
UNKNOWN = "not checked"
NOTICED = ("killed", "timeout", "suspicious", "segfault", "caught by type check")


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed: its function, and its lines before and after the change."""

    function: str  # reference.training.adamw.AdamW.__init__
    removed: str
    added: str

    @property
    def file(self) -> str:
        """reference/training/adamw.py"""
        return file_of(self.function)


def mutmut(*arguments: str) -> str:
    """The output of a mutmut command."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def statuses(printed: str) -> dict[str, str]:
    """Mutant -> status, from `mutmut results --all true`."""
    return dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+?)\s*$", printed, re.M))


def function_of(mutant: str) -> str:
    """mutmut's `reference.training.adamw.xǁAdamWǁ__init____mutmut_3` -> reference.training.adamw.AdamW.__init__"""
    module, _, name = mutant.rpartition("__mutmut_")[0].rpartition(".")
    return f"{module}.{name.removeprefix('x').removeprefix('_').replace('ǁ', '.').removeprefix('.')}"


def file_of(function: str) -> str:
    """The file of a function: the shortest existing path made of the first names of its dotted path."""
    names = function.split(".")
    files = ("/".join(names[:count]) + ".py" for count in range(2, len(names)))
    return next(file for file in files if (ROOT / file).is_file())


def survivor(mutant: str, diff: str) -> Survivor:
    """A survivor from the output of `mutmut show`."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "#"))]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return Survivor(function_of(mutant), before, after)


def known(path: Path = EQUIVALENT) -> dict[Survivor, str]:
    """The equivalent mutants, with reasons."""
    rows = tomllib.loads(path.read_text())["survivor"]
    return {Survivor(row["function"], row["removed"], row["added"]): row["why"] for row in rows}


def page(found: dict[str, str], survivors: Iterable[Survivor], reasons: dict[Survivor, str]) -> str:
    """The report.

    Args:
        found: mutant -> status, of all mutants; "not checked" if it was not run
        survivors: mutants that no test noticed
        reasons: of `known`
    """
    planned = Counter(file_of(function_of(mutant)) for mutant in found)
    found = {mutant: status for mutant, status in found.items() if status != UNKNOWN}
    totals = Counter(file_of(function_of(mutant)) for mutant in found)
    noticed = Counter(file_of(function_of(mutant)) for mutant, status in found.items() if status in NOTICED)
    unfinished = [f"{file} ({planned[file] - totals[file]})" for file in planned if planned[file] > totals[file]]
    kept = sorted(set(survivors), key=lambda s: (s.function, s.removed, s.added))
    harmless = Counter(one.file for one in survivors if one in reasons)
    lines = [
        "# Mutation testing",
        "",
        "[mutmut](https://mutmut.readthedocs.io) changes one thing at a time (an operator, a number, a default, an",
        "argument, a message) and runs the tests that reach it. Made by `nox -s mutation` in an hour or two.",
        "",
        f"{len(found):,} mutants, {sum(noticed.values()):,} noticed: {sum(noticed.values()) / len(found):.1%}. "
        f"Of the others, {sum(harmless.values())} change nothing that can be observed.",
        "",
        "| file | mutants | noticed | not noticed | of those, harmless |",
        "|---|--:|--:|--:|--:|",
    ]
    for file in sorted(totals, key=lambda name: (not name.startswith("reference"), name)):
        missed = totals[file] - noticed[file]
        lines.append(f"| {file} | {totals[file]} | {noticed[file]} | {missed or ''} | {harmless[file] or ''} |")
    if unfinished:
        lines += ["", f"Not run, so not counted: {', '.join(unfinished)}."]
    lines += [
        "",
        "## Not noticed",
        "",
        "Line before, line after, and why no test can notice the change; the reasons are in",
        "`tests/mutation/equivalent.toml`.",
        "",
    ]
    for one in kept:
        lines += [
            f"- `{one.function}`: {reasons.get(one, '**untested**')}",
            "",
            "  ```diff",
            f"  - {one.removed}",
            f"  + {one.added}",
            "  ```",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page; returns the exit status."""
    every = statuses(mutmut("results", "--all", "true"))
    found = {mutant: status for mutant, status in every.items() if status != UNKNOWN}
    if not found:
        print("no mutant was run: python -m mutmut run")
        return 1
    missed = [mutant for mutant, status in found.items() if status not in NOTICED]
    survivors = [survivor(mutant, mutmut("show", mutant)) for mutant in missed]
    reasons = known()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(every, survivors, reasons))
    share = 1.0 - len(missed) / len(found)
    open_ones = [one for one in survivors if one not in reasons]
    for one in open_ones:
        print(f"untested: {one.function}\n  - {one.removed}\n  + {one.added}")
    print(f"{len(found):,} mutants, {share:.1%} noticed, {len(open_ones)} untested; {PAGE}")
    return 0 if share >= ENOUGH and not open_ones else 1


if __name__ == "__main__":
    sys.exit(main())
