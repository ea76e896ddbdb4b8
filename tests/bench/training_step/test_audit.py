"""A training step is the same as the readable one, or the mistake that makes it another is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.training_step.audit import Audit, audit
from bench.training_step.hyperparameters import Hyperparameters
from bench.training_step.report import explained, report
from bench.user_code.load_function import load_function
from reference.training.step import build_step as readable
from tests.bench.training_step.mutants import EDITS, RIGHT, Edit
from tests.quick import quick


def build_of(source: str, folder: Path) -> Callable[..., Any]:
    """The function `build_step` of a file with this source."""
    file = folder / "step.py"
    file.write_text(source)
    return load_function(f"{file}:build_step", "build_step", "step")


def names(found: Audit) -> list[list[str]]:
    """The words of each explanation."""
    return [
        [*(mistake.what for mistake in one.mistakes), one.schedule, *(f"{n} is never updated" for n in one.frozen)]
        for _, one in explained(found)
    ]


def assert_named(found: Audit, *cause: str) -> None:
    """Every explanation has all words of the cause, and there is one."""
    assert not found.same
    assert names(found)
    for words in names(found):
        assert all(any(part in word for word in words) for part in cause), words


SHOWN_BY_UNEQUAL = ("mean_of_means", "short_dropped")
QUICK = ("l2", "zero_first")


@pytest.mark.parametrize("name", quick(EDITS, *QUICK))
def test_a_planted_mistake_is_named_and_no_other(name: str, tmp_path: Path) -> None:
    edit = EDITS[name]
    assert_named(audit(build_of(edit.source(), tmp_path), unequal=name in SHOWN_BY_UNEQUAL), *edit.cause)


def test_the_right_step_is_the_same(tmp_path: Path) -> None:
    found = audit(build_of(RIGHT.read_text(), tmp_path))
    assert found.same
    assert not found.notes
    assert "The same training step: 20 updates agree to 1" in report(found).text()


def test_the_readable_step_is_the_same_and_takes_one_batch_without_accumulation() -> None:
    def build_step(model: Any, h: Hyperparameters) -> Callable[..., torch.Tensor]:
        step = readable(model, h.rate, h.weight_decay, h.betas, h.clip)
        return lambda ids, targets: step(ids, targets)

    found = audit(build_step)
    assert found.same
    assert found.notes == ["the step takes one batch: accumulation of gradients was not tested"]


@pytest.mark.slow
def test_a_mean_of_means_is_the_same_step_where_sizes_are_equal(tmp_path: Path) -> None:
    build = build_of(EDITS["mean_of_means"].source(), tmp_path)
    assert audit(build, unequal=False).same


PAIRS = [("l2", "usual_betas"), ("decays_nothing", "zero_first"), ("not_clipped", "mean_of_means")]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_two_mistakes_at_once_are_both_named(pair: tuple[str, str], tmp_path: Path) -> None:
    assert_named(*both(pair, tmp_path))


@pytest.mark.slow
def test_of_20_random_pairs_19_are_named(tmp_path: Path) -> None:
    def possible(pair: tuple[str, str]) -> bool:
        lines = [EDITS[name].lines() for name in pair]
        return not lines[0] & lines[1] and "forgets_positions" not in pair

    chooser, named, pairs = random.Random(0), 0, []
    while len(pairs) < 20:
        pair = (chooser.choice(list(EDITS)), chooser.choice(list(EDITS)))
        if pair not in pairs and possible(pair):
            pairs.append(pair)
    missed = []
    for pair in pairs:
        found, *cause = both(pair, tmp_path)
        assert not found.same, pair
        right = all(any(part in word for words in names(found) for word in words) for part in cause)
        named += right
        missed += [] if right else [(pair, names(found))]
    assert named >= 19, missed


def both(pair: tuple[str, str], folder: Path) -> tuple[Audit, *tuple[str, ...]]:
    """The audit of a file with two mistakes, and the words of both causes."""
    edits = tuple(dict.fromkeys(one for name in pair for one in EDITS[name].edits))
    cause = tuple(words for name in pair for words in EDITS[name].cause)
    found = audit(build_of(Edit(edits, cause).source(), folder), unequal=any(name in pair for name in SHOWN_BY_UNEQUAL))
    return found, *cause


def test_a_step_that_raises_is_refused_with_its_place(tmp_path: Path) -> None:
    build = build_of(RIGHT.read_text().replace("done += 1", "done += undefined"), tmp_path)
    with pytest.raises(ValueError, match=r"step 0 raised NameError: name 'undefined' is not defined"):
        audit(build)


@pytest.mark.slow
def test_a_loss_that_is_the_last_micro_batch_s_is_a_remark(tmp_path: Path) -> None:
    build = build_of(RIGHT.read_text().replace("return total", "return loss.detach() * 3"), tmp_path)
    found = audit(build, unequal=False)
    assert found.same
    assert found.notes == ["the returned loss is the last micro-batch's, not the mean of all"]


@pytest.mark.slow
def test_weights_that_are_not_finite_are_a_difference(tmp_path: Path) -> None:
    build = build_of(RIGHT.read_text().replace('lr"] = ', "lr\"] = float('nan') * "), tmp_path)
    found = audit(build, unequal=False)
    assert not found.same
    assert found.notes == ["weights are not finite after step 0: no mistake was looked for"]
