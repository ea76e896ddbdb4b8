"""docs/candidate.md says what the command says today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.candidate.report import text
from tests.bench.candidate.candidate_page import EXAMPLES, HEAD, PAGE, ROOT, examined


def matters(report: str) -> list[str]:
    """The verdict, which rows fail, where first and the causes: without numbers, which are another machine's."""
    lines = [line.strip() for line in report.splitlines()]
    found = [next(line for line in lines if line.startswith(("The same function", "Not the same", "The logits")))]
    found += [re.split(r"\s{2,}", line)[0] for line in lines if "FAILED" in line]
    for section in ("Where first", "Likely cause"):
        if section in lines:
            found.append(lines[lines.index(section) + 1])
    return [re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", line) for line in found]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_report_on_the_page_is_that_of_today(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"## [examples/{name}.py]")
    assert section, f"{name} is not on the page: python -m tests.bench.candidate.candidate_page"
    section, _, _ = section.partition("\n## ")
    seen = examined(name)
    assert matters(section) == matters(text(seen)), (
        "write the page anew: python -m tests.bench.candidate.candidate_page"
    )


def test_the_examples_show_what_they_are_there_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    right, forward, backward = (examined(name) for name in EXAMPLES)
    assert right.same
    assert [cause.what for cause in forward.causes] == ["GELU in its exact erf form"]
    assert not backward.failed("logits")
    assert not backward.failed("loss")
    assert [cause.what for cause in backward.causes] == ["no gradient flows back through k"]


def test_the_page_begins_as_it_is_written_and_names_every_example() -> None:
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)
    assert {path.stem for path in Path(ROOT, "examples").glob("*.py")} == EXAMPLES.keys()
