"""Outputs in the documents, each made by the command beside it: `nox -s docs` runs the commands and writes them again.

An output is a block of cog (https://cog.readthedocs.io), whose first line calls `run`, `sessions` or `table`:

    <!-- [[[cog run("python -m bench compare --candidate examples/my_gpt.py:build --layout nanogpt") ]]] -->
    <!-- [[[end]]] -->

`nox -s docs -- --check` writes nothing and fails where an output is stale. Numbers and names of tensors are left out of
that check, as another CPU rounds in another way. Shown like this are commands that take seconds and print no times.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STALE = "a command prints something else today: run `nox -s docs` and look at the difference"
VARIES = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?|\b(h\.|ln_f\.|w[tp]e\.)[\w.]+")  # a number, or the name of a tensor


def run(command: str, keep: Sequence[str] = (), status: int = 0) -> None:
    """Show a command and what it prints.

    Args:
        command: of a shell, without its operators; `python` is this interpreter
        keep: regular expressions: only lines that match one are shown, and "..." in place of others; all if empty
        status: the exit status that the command must have
    """
    lines = output(command, status).splitlines()
    show([f"$ {command}", "", *(kept(lines, keep) if keep else lines)])


def sessions() -> None:
    """Show the sessions of noxfile.py as a table: name, and first line of the docstring."""
    rows = ["| session | what it does |", "|---|---|"]
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and "nox.session" in "".join(map(ast.unparse, node.decorator_list)):
            rows.append(f"| `{node.name}` | {(ast.get_docstring(node) or '').splitlines()[0]} |")
    write("\n".join(rows) + "\n")


def table(device: str, title: str, keep: Sequence[str] = ()) -> None:
    """Show a table of docs/results, which `python -m bench report` makes, with its device, date and versions.

    Args:
        device: the first words of the folder's name
        title: the first words of the table's title
        keep: regular expressions: only rows that match one are shown; all if empty
    """
    (path,) = (ROOT / "docs" / "results").glob(f"{device}*/tables.md")
    heading, _, measured, *lines = path.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"**{title}"))
    head, ruler, *rows = takewhile(bool, lines[start + 2 :])
    rows = [row for row in rows if not keep or any(re.search(expression, row) for expression in keep)]
    cog: Any = sys.modules["cog"]
    link = os.path.relpath(path, ROOT / Path(cog.inFile).parent)
    when = measured.removeprefix("Measured ").partition(". Written")[0]
    source = f"{lines[start]}, on {heading.removeprefix('# ')}, measured {when} ([all tables]({link}))"
    cog.out("\n".join([source, "", head, ruler, *rows]) + "\n")


@cache
def output(command: str, status: int) -> str:
    """What a command prints on standard output, in 100 columns and without colour."""
    program, *arguments = shlex.split(command)
    settings = {
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable if program == "python" else program, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != status:
        raise ValueError(f"{command}: exit status {done.returncode}, not {status}: {done.stderr.strip()}")
    return done.stdout.strip("\n")


def kept(lines: Sequence[str], keep: Sequence[str]) -> Iterator[str]:
    """Lines that match an expression, and one "..." for each run of others after the first match."""
    shown = hidden = False
    for line in lines:
        if any(re.search(expression, line) for expression in keep):
            yield from ["..."] * hidden
            yield line
            shown, hidden = True, False
        elif line.strip():
            hidden = shown
    yield from ["..."] * hidden


def show(lines: Sequence[str]) -> None:
    """Write lines as a code block of Markdown, fenced, since cog takes an indentation away."""
    write("\n".join(["", "```text", *map(str.rstrip, lines), "```", "", ""]))


def write(text: str) -> None:
    """Write the output of a block; in a check the old one, if it differs by no more than rounding."""
    cog: Any = sys.modules["cog"]  # which cog makes for the code of a block
    cog.out(cog.previous if cog.checking and same_but_for_rounding(text, cog.previous) else text)


def same_but_for_rounding(a: str, b: str) -> bool:
    """Whether two texts differ in numbers, names of tensors and white space alone."""
    return comparable(a) == comparable(b)


def comparable(text: str) -> list[str]:
    """The words of a text, without those that another machine may print otherwise."""
    return VARIES.sub("*", re.sub("─+", "─", text)).split()


def documents() -> list[Path]:
    """Markdown files that have such a block."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(file for file in files if "<!-- [[[cog" in file.read_text(encoding="utf-8"))


def make(files: Sequence[Path], check: bool) -> int:
    """Write the outputs of files again, or check them; returns cog's exit status, 0 if nothing is stale."""
    from cogapp import Cog

    cog = Cog()
    cog.cogmodule.checking = check  # for `write`
    mode = ["--check", "--diff", f"--check-fail-msg={STALE}"] if check else ["-r"]
    prologue = f"from {__spec__.name if __spec__ else __name__} import run, sessions, table"
    settings = ["-U", "-n", "utf-8", "--verbosity=1", "-p", prologue]
    status: int = cog.main(["cog", *mode, *settings, *map(str, files)])
    return status


if __name__ == "__main__":
    sys.exit(make(documents(), check="--check" in sys.argv[1:]))
