"""What the report makes of mutmut's output."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.mutation import report
from tests.mutation.report import Survivor, function_of, known, page, statuses, survivor

ROOT = Path(__file__).parents[2]
RESULTS = """\
    reference.training.adamw.xǁAdamWǁ__init____mutmut_1: survived
    reference.training.adamw.x_decays__mutmut_2: killed
    optimized.loss.x_chunked_loss__mutmut_10: timeout
    optimized.loss.x_plain_loss__mutmut_3: not checked
"""
DIFF = """\
# reference.training.adamw.xǁAdamWǁ__init____mutmut_1: survived
--- reference/training/adamw.py
+++ reference/training/adamw.py
@@ -1,7 +1,7 @@
     def __init__(
         self,
-        learning_rate: float = 3e-4,
+        learning_rate: float = 1.0003,
         weight_decay: float = 0.1,
"""
DEFAULT = Survivor(
    "reference.training.adamw.AdamW.__init__", "learning_rate: float = 3e-4,", "learning_rate: float = 1.0003,"
)


def test_every_line_of_the_results_is_read() -> None:
    assert list(statuses(RESULTS).values()) == ["survived", "killed", "timeout", "not checked"]


@pytest.mark.parametrize(
    "mutant, function",
    [
        ("reference.training.adamw.xǁAdamWǁ__init____mutmut_1", "reference.training.adamw.AdamW.__init__"),
        ("reference.training.adamw.x_decays__mutmut_22", "reference.training.adamw.decays"),
        ("reference.data.batches.x__fetch__mutmut_2", "reference.data.batches._fetch"),
    ],
)
def test_a_mutant_is_told_by_its_function(mutant: str, function: str) -> None:
    assert function_of(mutant) == function


def test_a_survivor_is_the_lines_before_and_after() -> None:
    assert survivor("reference.training.adamw.xǁAdamWǁ__init____mutmut_1", DIFF) == DEFAULT


def printed(monkeypatch: pytest.MonkeyPatch, results: str) -> None:
    monkeypatch.setattr(report, "mutmut", lambda *arguments: results if arguments[0] == "results" else DIFF)


def test_a_survivor_without_a_reason_is_untested_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(monkeypatch, RESULTS)
    monkeypatch.setattr(report, "PAGE", tmp_path / "mutation.md")
    assert report.main() == 1
    assert "untested: reference.training.adamw.AdamW.__init__" in capsys.readouterr().out
    assert "**untested**" in (tmp_path / "mutation.md").read_text()


@pytest.mark.parametrize("killed, status", [(19, 0), (18, 1)])
def test_95_percent_have_to_be_noticed(
    killed: int, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    noticed = "".join(f"    reference.training.adamw.x_decays__mutmut_{n}: killed\n" for n in range(killed))
    printed(monkeypatch, RESULTS.splitlines()[0] + "\n" + noticed)
    monkeypatch.setattr(report, "PAGE", tmp_path / "mutation.md")
    monkeypatch.setattr(report, "known", lambda: {DEFAULT: "a reason"})
    assert report.main() == status
    assert "0 untested" in capsys.readouterr().out


def test_the_page_counts_by_file() -> None:
    text = page(statuses(RESULTS), [DEFAULT], {DEFAULT: "never used"})
    assert "| reference/training/adamw.py | 2 | 1 | 1 | 1 |" in text
    assert "3 mutants, 2 noticed: 66.7%" in text
    assert "Not run, so not counted: optimized/loss.py (1)." in text
    assert "never used" in text


def test_every_known_survivor_has_a_reason_and_is_a_line_of_a_function_that_exists() -> None:
    for one, why in known().items():
        assert len(why) > 15, one
        assert one.removed != one.added
        name = one.function.rpartition(".")[2]
        code = (ROOT / one.file).read_text()
        assert f"def {name}(" in code, one
        assert " ".join(one.removed.split()) in " ".join(code.split()), f"the line is gone: {one}"


def test_without_a_run_there_is_nothing_to_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(monkeypatch, "    reference.training.adamw.x_decays__mutmut_1: not checked\n")
    assert report.main() == 1
    assert capsys.readouterr().out == "no mutant was run: python -m mutmut run\n"


def test_the_readme_says_what_the_page_says() -> None:
    text = (ROOT / "docs" / "mutation.md").read_text()
    ((mutants, share, others),) = re.findall(
        r"^([\d,]+) mutants, [\d,]+ noticed: ([\d.]+)%\. Of the others, (\d+) change nothing", text, re.MULTILINE
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    says = f"of mutmut's {mutants} mutants of the model {share} % are noticed, and the other {others} are listed"
    assert says in readme


def test_the_page_has_every_file_that_is_mutated_and_a_reason_for_every_survivor() -> None:
    text = (ROOT / "docs" / "mutation.md").read_text()
    rows = re.findall(r"^\| (\S+\.py) \| (\d+) \| (\d+) \| (\d*) \| (\d*) \|$", text, re.MULTILINE)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    assert sorted(row[0] for row in rows) == sorted(settings["only_mutate"])
    totals, noticed, missed, harmless = (sum(int(row[column] or 0) for row in rows) for column in range(1, 5))
    assert f"{totals:,} mutants, {noticed:,} noticed: {noticed / totals:.1%}. Of the others, {harmless} change" in text
    assert totals - noticed == missed == harmless
    listed = re.findall(r"^- `(\S+)`: (.+)\n\n  ```diff\n  - (.*)\n  \+ (.*)\n  ```$", text, re.MULTILINE)
    assert len(listed) == missed
    for function, why, removed, added in listed:
        assert known().get(Survivor(function, removed, added)) == why, function
