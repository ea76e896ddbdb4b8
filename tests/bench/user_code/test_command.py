"""What all tests of a user's code do the same way: standard output, traceback, page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = {
    "--step": ("my_step.py", "    def step("),
    "--batches": ("my_batches.py", "    step = start"),
    "--evaluate": ("my_evaluate.py", "    was_training"),
    "--generate": ("my_generate.py", "    block = "),
}
PAGES = {
    "--step": "Likely cause",
    "--batches": "Right batches",
    "--evaluate": "The same loss",
    "--generate": "Likely cause",
}


@pytest.mark.parametrize("option", FILES)
def test_what_a_users_file_prints_is_no_part_of_the_report(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, line = FILES[option]
    source = (EXAMPLES / name).read_text()
    assert source.count(line) == 1
    file = tmp_path / name
    file.write_text(source.replace(line, f"    print('CALLED')\n{line}") + "\nprint('IMPORTED')\n")
    assert main(["compare", option, str(file)]) == 0
    found = capsys.readouterr()
    assert {"IMPORTED", "CALLED"} <= set(found.err.split())
    assert not {"IMPORTED", "CALLED"} & set(found.out.split())


def test_nor_is_what_two_candidates_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from reference import GPT\n\ndef build(config):\n    print('BUILT')\n    return GPT(config)\n")
    assert main(["compare", "--candidate", f"{file}:build", "--against", "reference", "--steps", "0"]) == 0
    found = capsys.readouterr()
    assert "BUILT" in found.err
    assert "BUILT" not in found.out
    assert "The same function" in found.out


@pytest.mark.parametrize("option", ["--generate", "--step", "--batches", "--evaluate"])
def test_traceback_shows_the_whole_traceback(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = FILES[option][0].removeprefix("my_").removesuffix(".py")
    name = name if option in ("--generate", "--evaluate") else f"build_{name}"
    file = tmp_path / "mine.py"
    file.write_text(f"def {name}(model, ids, n=0):\n    return inner(model)\n\ndef inner(model):\n    model.nothing\n")
    assert main(["compare", option, f"{file}:{name}", "--traceback"]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last):" in error
    assert "in inner" in error


@pytest.mark.parametrize("option, said", PAGES.items())
def test_the_report_is_a_page_without_scripts(option: str, said: str, tmp_path: Path) -> None:
    wrong = EXAMPLES / FILES[option][0].replace("my_", "wrong_")
    out = tmp_path / "page.html"
    file = wrong if wrong.exists() else EXAMPLES / FILES[option][0]
    assert main(["compare", option, str(file), "--html", str(out)]) == int(wrong.exists())
    page = out.read_text()
    assert page.count("<pre>") == 1
    assert said in page
    assert "Environment" in page
    assert "<script" not in page
