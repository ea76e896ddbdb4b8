"""Whatever a forward pass returns, its logits are found; its own loss is judged on targets that it takes."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.calling import Refused, logits_of, loss_in
from bench.candidate.examine import Examination, examine
from bench.candidate.layouts import LAYOUTS
from bench.candidate.report import text
from reference import GPTConfig
from tests.bench.candidate.written import Written
from tests.quick import quick

SMALL = GPTConfig(block_size=24, vocab_size=37, n_layer=2, n_head=3, n_embd=24)
Pair = namedtuple("Pair", "loss logits")


def examined(build: Any, **options: Any) -> Examination:
    return examine(build, LAYOUTS["nanogpt"], **{"config": SMALL, "steps": 2, **options})


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -1) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore_index)


def returning(function: Any) -> Any:
    """A build of a model whose forward returns function(logits, targets)."""

    class Returning(Written):
        def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
            return function(super().forward(ids), targets)

    return Returning


def with_loss(logits: Tensor, targets: Tensor | None) -> Tensor | None:
    return None if targets is None else cross_entropy(logits, targets)


RETURNED = {
    "(loss, logits)": lambda x, y: (with_loss(x, y), x),
    "(logits, loss) with flattened logits": lambda x, y: (x.flatten(0, 1), with_loss(x, y)),
    "flattened only where there are targets": lambda x, y: (
        x if y is None else x.flatten(0, 1),
        with_loss(x, y),
    ),
    "the loss alone where there are targets": lambda x, y: x if y is None else with_loss(x, y),
    "(None, loss) where there are targets": lambda x, y: (x, None) if y is None else (None, with_loss(x, y)),
    "the last position alone where there are none": lambda x, y: (x[:, -1:] if y is None else x, with_loss(x, y)),
    "the last position, squeezed": lambda x, y: (x[:, -1] if y is None else x, with_loss(x, y)),
    "hidden states first": lambda x, y: (x[..., :5] * 2, x, with_loss(x, y)),
    "a cache behind": lambda x, y: (x, with_loss(x, y), [(x[..., :3], x[..., 3:6])]),
    "a dict": lambda x, y: {"loss": with_loss(x, y), "hidden": x[..., :5], "logits": x},
    "a named tuple": lambda x, y: Pair(with_loss(x, y), x),
    "an object": lambda x, y: SimpleNamespace(loss=with_loss(x, y), logits=x),
}


@pytest.mark.parametrize(
    "what",
    quick(
        RETURNED,
        "(None, loss) where there are targets",
        "flattened only where there are targets",
        "the last position alone where there are none",
        "an object",
    ),
)
def test_the_logits_are_found_in_what_a_model_returns(what: str) -> None:
    seen = examined(returning(RETURNED[what]))
    assert seen.same, text(seen)
    assert seen.notes == ["its own loss is tested: model(ids, targets=targets)"]


def test_of_two_tensors_of_that_shape_the_one_named_logits_is_taken() -> None:
    right, other = torch.zeros(2, 3, 5), torch.ones(2, 3, 5)
    assert logits_of({"hidden": other, "logits": right}, (2, 3, 5)) is right
    assert logits_of((right, other), (2, 3, 5)) is right
    assert loss_in({"auxiliary": other.sum(), "loss": right.sum()}) == 0.0
    with pytest.raises(Refused, match=r"^candidate: its call returned tuple: return logits, \(logits, loss\), or"):
        logits_of((None, "loss"), (2, 3, 5))


@pytest.mark.slow
def test_a_loss_without_ignore_index_is_judged_on_targets_that_torch_ignores() -> None:
    seen = examined(returning(lambda x, y: (x, None if y is None else cross_entropy(x, y, -100))))
    assert seen.same, text(seen)
    note = "model(ids, targets=targets); it ignores targets of -100, not of -1, so ignored targets are -100"
    assert seen.notes == [f"its own loss is tested: {note}"]


def test_a_loss_that_ignores_no_targets_is_judged_without_ignored_ones() -> None:
    def gathered(logits: Tensor, targets: Tensor) -> Tensor:
        return -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()

    seen = examined(returning(lambda x, y: (x, None if y is None else gathered(x, y))))
    assert seen.same, text(seen)
    note = "model(ids, targets=targets); it ignores no targets, so it is tested without ignored targets"
    assert seen.notes == [f"its own loss is tested: {note}"]
    wrong = examined(returning(lambda x, y: (x, None if y is None else gathered(x[:, :-1], y[:, 1:]))))
    assert [cause.what for cause in wrong.causes] == ["targets shifted twice"]


def test_a_loss_that_is_no_loss_of_ids_is_not_used() -> None:
    class Helper(Written):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__(config)
            self.loss = nn.CrossEntropyLoss()

    seen = examined(Helper)
    assert seen.same, text(seen)
    (note,) = seen.notes
    assert note.startswith("its loss(ids, targets) raised "), note
    assert note.endswith(": not used"), note


def test_a_model_that_is_wrong_only_without_targets_is_different() -> None:
    for cut in (slice(None), slice(-1, None)):
        seen = examined(returning(lambda x, y, cut=cut: (x[:, cut] * 1.01 if y is None else x, with_loss(x, y))))
        assert [m.name for m in seen.failures] == ["logits without targets"]
        assert "Not the same function: logits without targets off by 1.0e-02" in text(seen)


def test_a_model_that_returns_all_logits_in_no_call_is_refused() -> None:
    for function in (lambda x, y: x[:, -1] if y is None else with_loss(x, y), lambda x, y: with_loss(x, x.argmax(-1))):
        with pytest.raises(Refused, match=r"^candidate: returns logits of shape \(\) .*: it returns only a loss"):
            examined(returning(function))
