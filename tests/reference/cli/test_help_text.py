"""Help wraps at the terminal's width, whatever the lines of the source."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from bench import __main__ as bench
from optimized.__main__ import PACKAGE
from reference.cli import main as cli
from reference.cli.options import Plot

WIDTH = 72
COMMANDS: dict[str, tuple[Callable[[list[str]], object], list[str]]] = {
    **{name: (lambda given: cli.main(PACKAGE, given), [name]) for name in ("train", "sample", "eval")},
    **{f"compare {kind}": (bench.main, ["compare", kind, "x"]) for kind in bench.KINDS},
    **{name: (bench.main, [name]) for name in ("compare", "roofline", "report", "diff")},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_help_ends_before_the_next_word_fills_it(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    command, given = COMMANDS[name]
    with pytest.raises(SystemExit):
        command([*given, "--help"])
    lines = [line[2:].rstrip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(lines) > 3
    for line, following in pairwise(lines):
        if line.startswith("    ") and following.startswith("    "):  # both of one option's help
            assert len(line) + 1 + len(following.split()[0]) > WIDTH - 4, line


def test_every_class_is_read_once_and_only_for_its_help() -> None:
    before = dict(Plot.__annotations__)
    cli.wrapped(Plot, ["loss"])
    assert Plot.__annotations__ == before
    cli.wrapped(Plot, ["--help"])
    cli.wrapped(Plot, ["--help"])
    assert Plot.__annotations__.keys() == before.keys()
