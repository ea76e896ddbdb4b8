"""A user's validation loss is the mean over all targets, or the mistake that makes it another is named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.candidate.load_function import load_function
from bench.evaluation.audit import BUDGET, Audit, audit, batches_of, mistakes, watched
from tests.bench.evaluation.mutants import MEANS, MISTAKES, RETURN, RIGHT


def audit_of(source: str, folder: Path) -> Audit:
    """The audit of a file with this source."""
    file = folder / "mine.py"
    file.write_text(source)
    return audit(load_function(f"{file}:evaluate", "evaluate", "evaluation"))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_no_other(name: str, tmp_path: Path) -> None:
    source, old, new, words = MISTAKES[name]
    assert not old or source.count(old) == 1
    found = audit_of(source.replace(old, new) if old else source, tmp_path)
    assert not found.same
    assert [words in fault.what for fault in found.faults] == [True], found.faults


def test_the_right_loss_is_the_same_also_collected_in_float32(tmp_path: Path) -> None:
    found = audit_of(RIGHT, tmp_path)
    assert (found.same, found.notes) == (True, [])
    float32 = RIGHT.replace(RETURN, "    return torch.tensor(total, dtype=torch.float32) / count\n")
    assert audit_of(float32, tmp_path).same


def test_every_known_mistake_gives_a_number_of_its_own() -> None:
    batches = batches_of(0)
    logits = [watched(0)(ids).detach() for ids, _ in batches]
    values = sorted(mistakes(logits, [targets for _, targets in batches]))
    assert len(values) == 17
    assert all(b - a > 4 * BUDGET * b for a, b in pairwise(values)), values


def test_a_model_that_stays_in_eval_mode_and_recorded_gradients_are_notes(tmp_path: Path) -> None:
    source = RIGHT.replace("    model.train(was_training)\n", "").replace("@torch.no_grad()\n", "")
    found = audit_of(source, tmp_path)
    assert found.same
    assert [note.partition(":")[0] for note in found.notes] == [
        "the model stays in eval mode",
        "gradients are recorded",
    ]


@pytest.mark.parametrize(
    "body,line",
    [
        ("return None", "evaluation: evaluate returned NoneType: return the mean loss, a number"),
        (
            "return wrong",
            "evaluation: evaluate raised NameError: name 'wrong' is not defined (mine.py, line 2)",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    body: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"def evaluate(model, batches):\n    {body}\n")
    assert main(["compare", "--evaluate", "mine.py", "--threads", "1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"


def test_the_command_says_what_is_wrong_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("right.py").write_text(RIGHT)
    Path("means.py").write_text(MEANS)
    assert main(["compare", "--evaluate", "right.py", "--threads", "1"]) == 0
    assert "The same loss: 11." in capsys.readouterr().out
    assert main(["compare", "--evaluate", "means.py", "--threads", "1", "--json", "r.json"]) == 1
    assert "the mean of the batches' means" in capsys.readouterr().out
    found = json.loads(Path("r.json").read_text())
    assert (found["kind"], found["same"], len(found["faults"])) == ("evaluation", False, 1)
