"""`bench compare --generate`: exit status, report and file; a user's mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_a_wrong_generator_exits_1_and_its_causes_are_in_the_report_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "generate.json"
    assert main(["compare", "--generate", str(EXAMPLES / "wrong_generate.py"), "--json", str(file)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert " of 22 texts differ: greedy, beyond the block" in said
    assert "cropped at the wrong end: the model sees its beginning; and top-p drops the token that reaches p" in said
    found = json.loads(file.read_text())
    assert found["same"] is False
    [cause] = found["causes"]
    assert len(cause["mistakes"]) == 2
    wrong = [one for one in found["texts"] if not one["same"]]
    assert all(one["yours"] != one["reference"] for one in wrong)


@pytest.mark.slow
def test_the_right_example_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--generate", f"{EXAMPLES / 'my_generate.py'}:generate"]) == 0
    said = capsys.readouterr().out
    assert "The same generator: " in said
    assert "padded batch, beyond the block" in said
    assert "Not judged" not in said
