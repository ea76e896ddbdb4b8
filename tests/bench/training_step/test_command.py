"""`bench compare --step`: exit status, report and file; a user's mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.training_step.audit import Audit, Explanation, Run
from bench.training_step.hyperparameters import Hyperparameters
from bench.training_step.record import STEPS, Recorded
from bench.training_step.report import report

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_a_wrong_step_exits_1_and_its_causes_are_in_the_report_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "step.json"
    step = f"{EXAMPLES / 'wrong_step.py'}:build_step"
    assert main(["compare", "--step", step, "--no-unequal", "--json", str(file)]) == 1
    said = capsys.readouterr().out
    assert "Not the same training step: the update of step 0" in said
    assert "weight decay adds to the gradient (L2, torch.optim.Adam); and step 0 has learning rate 0" in said
    assert "yours      0.00e+00 2.00e-04" in said
    found = json.loads(file.read_text())
    assert found["same"] is False
    [cause] = found["runs"][0]["causes"]
    assert cause["schedule"].startswith("step 0 has learning rate 0")
    assert cause["learning_rates"][0] == 0.0


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_at_any_width_each_learning_rate_stands_below_its_step(width: int) -> None:
    given = Hyperparameters()
    rates = [given.rate(step) / 2 for step in range(STEPS)]
    recorded = Recorded([], [], [1], [], [])
    cause = Explanation((), "half of the schedule", 0.0, rates)
    found = Audit("mine", given, [Run("equal", recorded, [1.0], "wte.weight", [], torch.ones(1), [cause])], [])
    shown = report(found).text(width).partition("Learning rates\n")[2].splitlines()
    assert max(map(len, shown)) <= width
    seen: list[tuple[str, ...]] = []
    for start in range(0, len(shown), 3):
        names, *cells = zip(*(line.split() for line in shown[start : start + 3]), strict=True)
        assert names == ("step", "yours", "reference")
        seen += cells
    assert seen == [(f"{step}", f"{rates[step]:.2e}", f"{given.rate(step):.2e}") for step in range(8)]
