"""A user's validation loss is the mean over all targets, or the mistake that makes it another is named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.evaluation.audit import BUDGET, Audit, audit, batches_of, mistakes, watched
from bench.user_code.load_function import load_function

RIGHT = (Path(__file__).parents[3] / "examples" / "my_evaluate.py").read_text()

# nanoGPT's way: the mean of the batches' means, collected in float32
MEANS = """
import torch

@torch.no_grad()
def evaluate(model, batches):
    model.eval()
    losses = torch.zeros(len(batches))
    for k, (x, y) in enumerate(batches):
        logits, loss = model(x, y)
        losses[k] = loss.item()
    model.train()
    return losses.mean()
"""

TOTAL = 'reduction="sum").item()'
COUNT = "(targets != -1).sum().item()"
RETURN = "    return total / count\n"
MISTAKES: dict[str, tuple[str, str, str, str]] = {  # source, edit, words of the fault; in brackets: a public bug
    "mean of means [40]": (MEANS, "", "", "the mean of the batches' means"),
    "weighted by rows": (
        RIGHT.replace(TOTAL, 'reduction="mean").item() * len(ids)'),
        COUNT,
        "len(ids)",
        "weighted by their rows",
    ),
    "ignored ones count": (RIGHT, COUNT, "targets.numel()", "ignored targets count as losses of 0"),
    "a sum": (RIGHT, RETURN, "    return total\n", "the sum over targets"),
    "bits": (RIGHT, RETURN, "    return total / count / 0.6931471805599453\n", "bits per token"),
    "perplexity": (RIGHT, RETURN, "    return float(torch.tensor(total / count).exp())\n", "the perplexity"),
    "shifted once more [18]": (
        RIGHT,
        "logits, _ = model(ids, targets)\n",
        "logits, _ = model(ids, targets)\n        logits, targets = logits[:, :-1], targets[:, 1:]\n",
        "shifted once more",
    ),
    "the last batch dropped": (RIGHT, "in batches:", "in batches[:-1]:", "all batches but the last"),
    "in train mode [16]": (RIGHT, "    model.eval()\n", "", "train mode"),
    "of no known kind": (RIGHT, RETURN, "    return 2.0 * total / count\n", "another number"),
}


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
