"""What all tests of a user's code do the same way: standard output, traceback, page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from tests.quick import quick

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = {  # by option: an example, one of its lines, what its page says
    "--step": ("my_step.py", "    def step(", "Likely cause"),
    "--batches": ("my_batches.py", "    step = start", "Right batches"),
    "--evaluate": ("my_evaluate.py", "    was_training", "The same loss"),
    "--generate": ("my_generate.py", "    block = ", "Likely cause"),
}


@pytest.mark.parametrize("option", quick(FILES, "--batches", "--generate"))
def test_what_a_users_file_prints_is_no_part_of_the_report(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, line, _ = FILES[option]
    source = (EXAMPLES / name).read_text()
    assert source.count(line) == 1
    file = tmp_path / name
    file.write_text(source.replace(line, f"    print('CALLED')\n{line}") + "\nprint('IMPORTED')\n")
    assert main(["compare", option, str(file)]) == 0
    found = capsys.readouterr()
    assert {"IMPORTED", "CALLED"} <= set(found.err.split())
    assert not {"IMPORTED", "CALLED"} & set(found.out.split())


@pytest.mark.slow
def test_nor_is_what_two_candidates_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from reference import GPT\n\ndef build(config):\n    print('BUILT')\n    return GPT(config)\n")
    assert main(["compare", "--candidate", f"{file}:build", "--against", "reference", "--steps", "0"]) == 0
    found = capsys.readouterr()
    assert "BUILT" in found.err
    assert "BUILT" not in found.out
    assert "The same function" in found.out


@pytest.mark.parametrize("option", FILES)
def test_traceback_shows_the_whole_traceback(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = FILES[option][0].removeprefix("my_").removesuffix(".py")
    name = name if option in ("--generate", "--evaluate") else f"build_{name}"
    file = tmp_path / "mine.py"
    file.write_text(f"def {name}(model, ids, n=0):\n    return inner(model)\n\ndef inner(model):\n    model.nothing\n")
    assert main(["compare", option, f"{file}:{name}", "--traceback"]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last):" in error
    assert "in inner" in error


@pytest.mark.parametrize("option", quick(FILES, "--batches", "--evaluate"))
def test_the_report_is_a_page_without_scripts(option: str, tmp_path: Path) -> None:
    name, _, said = FILES[option]
    wrong = EXAMPLES / name.replace("my_", "wrong_")
    out = tmp_path / "page.html"
    file = wrong if wrong.exists() else EXAMPLES / name
    assert main(["compare", option, str(file), "--html", str(out)]) == int(wrong.exists())
    page = out.read_text()
    assert page.count("<pre>") == 1
    assert said in page
    assert "Environment" in page
    assert "<script" not in page


SKIPS = "class Skipped(BaseException): ...\n"  # as pytest's, which is no Exception
REFUSED = [
    ("--candidate", f"{SKIPS}raise Skipped('no flash_attn')", "does not import: Skipped: no flash_attn (line 2)"),
    (
        "--candidate",
        f"{SKIPS}def build(config): raise Skipped('x')",
        "build(config) raised Skipped: x (mine.py, line 2)",
    ),
    ("--step", f"{SKIPS}def build_step(model, h): raise Skipped('x')", "raised Skipped: x (mine.py, line 2)"),
    ("--step", "def build(model): ...", "has no 'build_step'; it defines build: name one after a colon"),
    ("--step", "def build_step(model, h): return 3", "build_step returned int: return a function of a list of "),
    ("--step", "def build_step(model, h): return model.nothing", "'UserGPT' object has no attribute 'nothing'"),
    ("--step", "def build_step(a, b, c): ...", "missing 1 required positional argument: 'c'"),
    ("--generate", "def generator(model): ...", "has no 'generate'; it defines generator: name one after a colon"),
    ("--generate", "def generate(model, ids, n): return 3", "returned int: give ids (B, tokens)"),
    ("--generate", "def generate(model, ids, n): return model.nothing", "no attribute 'nothing' (mine.py, line 1)"),
    ("--generate", "def generate(model, ids, n):\n    return model(ids.float())\n", "(mine.py, line 2)"),
]


@pytest.mark.parametrize("option, source, line", REFUSED)
def test_a_function_that_cannot_be_run_exits_2_with_one_line(
    option: str, source: str, line: str, folder: Path, refused: Callable[..., str]
) -> None:
    (folder / "mine.py").write_text(source)
    said = refused("compare", option, "mine.py")
    assert said.startswith(option.removeprefix("--"))
    assert line in said
