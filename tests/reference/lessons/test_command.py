"""A lesson started as a command: --help says what it is about and starts nothing."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest

from reference.lessons import command, drawing
from tests.reference.lessons.pages import ORDER, lesson


@pytest.mark.parametrize("name", [*ORDER, "bpe_speed"])
def test_help_is_what_the_file_of_the_lesson_begins_with(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"reference.lessons.{name}"
    text = lesson(name).__doc__
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)  # or runpy warns that it runs a second copy
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m {module} [-h]")
    assert text is not None
    assert text.strip() in said


def test_an_unknown_argument_starts_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mlp", "--steps", "5"])
    started: list[str] = []
    with pytest.raises(SystemExit) as stopped:
        command.start("mlp", "Lesson 3", lambda: started.append("mlp"))
    assert stopped.value.code == 2
    assert not started


def test_a_mistake_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise ValueError("no such text")

    monkeypatch.setattr(sys, "argv", ["mlp"])
    with pytest.raises(SystemExit) as stopped:
        command.start("mlp", "Lesson 3", fail)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: no such text\n"


def test_words_that_lie_in_a_heap_are_drawn_apart_and_beside_their_dots() -> None:
    heap = [{"x": 0.5 + 0.001 * n, "y": 0.5, "text": chr(97 + n), "kind": "letter"} for n in range(8)]
    rows = [*heap, *({"x": x, "y": y, "text": "z", "kind": "letter"} for x, y in ((0.0, 0.0), (1.0, 1.0)))]
    in_pixels = (drawing.WIDTH, drawing.HEIGHT)
    words = [(x * in_pixels[0], y * in_pixels[1]) for x, y in drawing.apart(rows)]
    dots = [(row["x"] * in_pixels[0], row["y"] * in_pixels[1]) for row in rows]

    def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
        return float(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5)

    nearest = min(distance(a, b) for i, a in enumerate(words) for b in words[:i])
    assert nearest > 0.9 * drawing.BETWEEN_WORDS
    assert min(distance(word, dot) for word in words for dot in dots) > 0.9 * drawing.OFF_DOT
    assert max(distance(word, dot) for word, dot in zip(words, dots, strict=True)) < 80


def test_words_at_the_same_place_part() -> None:
    same = [{"x": 0.0, "y": 0.0, "text": text, "kind": "letter"} for text in "ab"]
    (a, b) = drawing.apart(same)
    assert a != b
