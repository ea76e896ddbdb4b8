"""Two candidates are compared with each other, and each with the reference, which says where and why they part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.candidate.examination import DROPPED
from tests.quick import quick

ERF = "from torch.nn.functional import gelu\nbuild = mutant(MLP, activate=lambda self, x: gelu(x))\n"
HEAD = "from tests.bench.candidate.written import MLP, Interleaved, PerHead, Written, mutant\n"
FILES = {
    "right.py": "build = Written\n",
    "heads.py": "build = PerHead\n",
    "interleaved.py": "build = Interleaved\n",
    "erf.py": ERF,
    "rounded.py": "class build(Written):\n    def forward(self, x):\n        return super().forward(x).float()\n",
    "dropping.py": "from tests.bench.candidate.test_modes import dropping\nbuild = dropping(alive=True)\n",
    "unknown.py": "class build(Interleaved):\n    def forward(self, ids):\n"
    "        return super().forward(ids.flip(0).roll(3, 1) * 7 % 31)[0]\n",
    "broken.py": "def build(config):\n    raise RuntimeError('no memory')\n",
}


@pytest.fixture(autouse=True)
def files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(HEAD + text)


def compared(a: str, b: str, *options: str) -> tuple[int, dict[str, Any]]:
    command = ["compare", "--candidate", a, "--against", b, "--steps", "2", "--threads", "1", "--json", "r.json"]
    status = main([*command, *options])
    return status, json.loads(Path("r.json").read_text())


@pytest.mark.parametrize(
    "a,b", [("heads.py", "interleaved.py"), pytest.param("right.py", "transformers", marks=pytest.mark.slow)]
)
def test_two_right_ones_in_any_layouts_are_the_same(a: str, b: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = compared(a, b)
    out = capsys.readouterr().out
    assert status == 0, out
    assert (found["pair"]["same"], found["a"]["same"], found["b"]["same"]) == (True, True, True)
    assert "The same function: in float64, logits agree to" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    "a,b", [("right.py", "erf.py"), pytest.param("erf.py", "transformers", marks=pytest.mark.slow)]
)
def test_a_difference_is_explained_on_its_side(a: str, b: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = compared(a, b)
    assert status == 1
    wrong, right = ("a", "b") if a == "erf.py" else ("b", "a")
    assert found[right]["same"]
    assert found[right]["causes"] == []
    assert [cause["what"] for cause in found[wrong]["causes"]] == ["GELU in its exact erf form"]
    out = capsys.readouterr().out
    assert f"{wrong.upper()} against the reference: Not the same function" in out
    assert f"{right.upper()} against the reference: The same function" in out


@pytest.mark.parametrize("width", quick([60, 80], 60))
def test_on_a_narrow_terminal_no_number_is_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", f"{width}")
    _, found = compared("right.py", "erf.py")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert {f"{one['error']:.1e}" for one in found["pair"]["measurements"] if one["quantity"] == "loss"} <= words


@pytest.mark.slow
def test_two_with_the_same_mistake_are_the_same_as_each_other() -> None:
    status, found = compared("erf.py", "erf.py")
    assert (status, found["a"]["same"], found["b"]["same"]) == (0, False, False)


@pytest.mark.slow
def test_where_one_rounds_both_are_judged_in_float32() -> None:
    status, found = compared("right.py", "rounded.py")
    assert status == 0
    assert (found["a"]["precision"], found["b"]["precision"], found["pair"]["precision"]) == (
        "float64",
        "float32",
        "float32",
    )


@pytest.mark.parametrize(
    "b,message",
    [
        ("missing.py", r"against missing\.py: there is no such file"),
        ("broken.py", r"candidate: build\(config\) raised RuntimeError: no memory.*"),
        ("right.py --against-layout hf", r"layout: its weights do not fit the candidate: .*"),
        ("right.py --against-layout x", r"unknown layout 'x': give one of auto, canonical, hf, nanogpt, or .*"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    b: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--candidate", "right.py", "--steps", "0", "--against", *b.split()]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"error: {message}", captured.err.splitlines()[-1]), captured.err
    assert captured.out == ""


def test_dropout_that_is_active_in_eval_mode_is_a_difference_of_the_two() -> None:
    status, found = compared("right.py", "dropping.py")
    assert status == 1
    assert [m["name"] for m in found["pair"]["measurements"] if m["error"] > m["allowed"]] == [DROPPED]
    status, found = compared("dropping.py", "dropping.py")
    assert (status, found["pair"]["same"], found["b"]["same"]) == (0, True, False)


@pytest.mark.slow
def test_a_difference_that_may_be_a_guessed_layouts_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--candidate", "unknown.py", "--against", "reference", "--steps", "0"]) == 2
    assert "neither it nor the difference is confirmed, so the candidate is not judged" in capsys.readouterr().err
