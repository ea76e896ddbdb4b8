"""Options are checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.journal import write
from bench.settings import CompareCandidate, CompareStep, CompareWeights, MeasureRoofline, Template

FILE = Path("result.json")


@pytest.mark.parametrize(
    "options",
    [
        CompareCandidate("gpt.py:build", json=FILE),
        CompareStep("step.py:build_step", json=FILE),
        CompareWeights(Path("a"), Path("b"), json=FILE),
        MeasureRoofline(json=FILE),
        Template("gpt.py:GPT", out=FILE),
    ],
    ids=lambda options: type(options).__name__,
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options.check()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    option = "--out" if isinstance(options, Template) else "--json"
    with pytest.raises(ValueError, match=f"^{option} result.json: its folder cannot be written: give a file in"):
        options.check()


def test_a_result_that_cannot_be_written_is_a_mistake_and_never_the_status_of_a_difference(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^cannot write '.*result\.json': Not a directory$"):
        write(tmp_path / "file" / "result.json", {})
