"""What a user's file prints, when it is imported or called, is no part of the report on standard output."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = {
    "--step": ("my_step.py", "    def step("),
    "--batches": ("my_batches.py", "    step = start"),
    "--evaluate": ("my_evaluate.py", "    was_training"),
    "--generate": ("my_generate.py", None),
}


@pytest.mark.parametrize("option", FILES)
def test_what_a_users_file_prints_is_no_part_of_the_report(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, line = FILES[option]
    source = (EXAMPLES / name).read_text()
    if line is not None:
        assert source.count(line) == 1
        source = source.replace(line, f"    print('CALLED')\n{line}")
    file = tmp_path / name
    file.write_text(f"{source}\nprint('IMPORTED')\n")
    assert main(["compare", option, str(file)]) == 0
    found = capsys.readouterr()
    assert "IMPORTED" in found.err
    assert ("CALLED" in found.err) == (line is not None)
    assert not {"IMPORTED", "CALLED"} & set(found.out.split())
