"""A user's validation loss is the mean over all targets, or the mistake that makes it another is named."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.evaluation.audit import BUDGET, Audit, audit, batches_of, mistakes, watched
from bench.evaluation.completions import (
    LATE,
    MEAN,
    Choices,
    Question,
    audit_choices,
    chooses,
    of_question,
    questions,
    told,
)
from bench.evaluation.completions import mistakes as mistakes_of_choices
from bench.user_code.load_function import load_function
from tests.bench.evaluation.mutants import CHOICES, LEAST, MEANS, MISTAKES, RETURN, RIGHT


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


def choices_of(source: str, folder: Path) -> Choices:
    """The audit of the choice between completions in a file with this source."""
    file = folder / "mine.py"
    file.write_text(source)
    function = load_function(f"{file}:most_likely", "most_likely", "evaluation")
    return audit_choices(function, name="the choice")


@pytest.mark.parametrize("way", ["a row", "losses"])
@pytest.mark.parametrize("name", CHOICES)
def test_a_planted_mistake_of_a_choice_is_named_and_no_other(name: str, way: str, tmp_path: Path) -> None:
    old, new, words = CHOICES[name]
    if old == LEAST and way == "losses":
        return  # it chooses nothing
    assert RIGHT.count(old) == 1
    found = choices_of(RIGHT.replace(old, new).replace(LEAST, "" if way == "losses" else LEAST), tmp_path)
    assert found.chosen == (way == "a row")
    assert [words in fault.what for fault in found.faults] == [True], found.faults


@pytest.mark.parametrize(
    "old,new,note",
    [
        (LEAST, LEAST, None),
        (LEAST, "", None),
        ("(losses * counted).sum(1) / counted.sum(1)", "(losses * counted).sum(1)", "it takes the sum"),
    ],
)
def test_a_right_choice_by_row_loss_or_sum_is_the_same(old: str, new: str, note: str | None, tmp_path: Path) -> None:
    found = choices_of(RIGHT.replace(old, new), tmp_path)
    assert found.same, found.faults
    assert [line.startswith(note) for line in found.notes] == [True] if note else found.notes == []


def test_a_validation_loss_may_have_a_mask_with_a_default() -> None:
    assert not chooses(lambda model, batches, mask=None: 0.0)
    assert chooses(lambda tokens, mask, logits: 0)


def test_log_likelihoods_are_losses_with_another_sign(tmp_path: Path) -> None:
    found = choices_of(RIGHT.replace("return (", "return -(").replace(LEAST, ""), tmp_path)
    assert (found.same, found.chosen) == (True, False)


def test_a_choice_by_a_model_in_train_mode_is_a_fault(tmp_path: Path) -> None:
    source = RIGHT.replace("(tokens, mask, logits):", "(model, tokens, mask):\n    logits = model(tokens)")
    assert [fault.what for fault in choices_of(source, tmp_path).faults] == [
        "the model is in train mode: dropout is on"
    ]
    assert choices_of(source.replace("logits = model", "logits = model.eval()"), tmp_path).same


@pytest.mark.slow
def test_every_known_mistake_of_a_choice_gives_other_rows() -> None:
    asked = questions(0)
    logits = [watched(0)(question.tokens).detach() for question in asked]
    rows = [tuple(told(losses, chosen=True)) for losses in mistakes_of_choices(logits, asked).values()]
    assert len(set(rows)) == len(rows) == 9


def test_a_hand_example_of_completions_of_unequal_length_has_the_losses_worked_out() -> None:
    # every token has a probability of 1/3, but one has 4/6; completions of two tokens and of one, vocabulary 3
    question = Question(torch.tensor([[5, 1, 2], [5, 2, 0]]) % 3, torch.tensor([[0, 1, 1], [0, 1, 0]]))
    logits = torch.zeros(2, 3, 3, dtype=torch.float64)
    logits[0, 0, 1] = math.log(4.0)  # of row 0's first token
    losses = of_question(logits, question.tokens, question.mask.double())
    half = (math.log(1.5) + math.log(3.0)) / 2
    assert losses[MEAN].tolist() == pytest.approx([half, math.log(3.0)], rel=1e-12)
    assert losses[LATE].tolist() == pytest.approx([math.log(3.0), math.log(3.0)], rel=1e-12)


@pytest.mark.parametrize(
    "source,line",
    [
        ("def most_likely(mask): ...", "a function of a mask takes tokens, and model or logits, by these names"),
        (
            "def most_likely(tokens, mask, logits): ...",
            "the function returned NoneType: return the most likely row, a ",
        ),
        (
            "def most_likely(tokens, mask, logits): return nothing",
            "the function raised NameError: name 'nothing' is not defined (",
        ),
    ],
)
def test_a_choice_that_cannot_be_judged_is_refused_in_one_line(source: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        choices_of(source, tmp_path)


def test_the_command_tests_a_choice_where_a_function_takes_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, words = CHOICES["mask off by one [39]"]
    Path("right.py").write_text(RIGHT)
    Path("late.py").write_text(RIGHT.replace(old, new))
    assert main(["compare", "--evaluate", "right.py:most_likely", "--threads", "1"]) == 0
    assert "The same choices: in all 48 questions" in capsys.readouterr().out
    assert main(["compare", "--evaluate", "late.py:most_likely", "--threads", "1", "--json", "r.json"]) == 1
    out = capsys.readouterr().out
    assert words in out
    found = json.loads(Path("r.json").read_text())
    assert (found["kind"], found["same"], len(found["faults"]), len(found["found"])) == ("evaluation", False, 1, 48)


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
