"""`bench compare --generate`: exit status, report and file; a user's mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from tests.bench.text_generation.mutants import PLAIN

EXAMPLES = Path(__file__).parents[3] / "examples"


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


def test_the_right_example_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--generate", f"{EXAMPLES / 'my_generate.py'}:generate"]) == 0
    said = capsys.readouterr().out
    assert "The same generator: " in said
    assert "padded batch, beyond the block" in said
    assert "Not judged" not in said


def test_what_a_generator_prints_is_no_part_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("print('imported')\n" + PLAIN.replace("    return idx\n", "    print('done')\n    return idx\n"))
    assert main(["compare", "--generate", str(file)]) == 0
    captured = capsys.readouterr()
    assert "done" not in captured.out
    assert "imported" not in captured.out
    assert "done" in captured.err


REFUSED = [
    ("def generator(model): ...", "has no 'generate'; it defines generator: name one after a colon"),
    ("def generate(model, ids, n): return 3", "returned int: give ids (B, tokens)"),
    (
        "def generate(model, ids, n): return model.nothing",
        "'UserGPT' object has no attribute 'nothing' (mine.py, line 1)",
    ),
    ("def generate(model, ids, n):\n    return model(ids.float())\n", "(mine.py, line 2)"),
]


@pytest.mark.parametrize("source, line", REFUSED)
def test_a_generator_that_cannot_be_run_exits_2_with_one_line(
    source: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(source)
    assert main(["compare", "--generate", "mine.py"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: generate")
    assert line in error
