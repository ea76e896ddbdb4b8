"""Valid ids pass; invalid ones raise one line with the id."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from reference import GPTConfig
from reference.ids import check_ids, check_shape, check_targets, check_type, check_values, outside

CONFIG = GPTConfig(block_size=4, vocab_size=50, n_layer=1, n_head=1, n_embd=1)
GOOD = torch.tensor([[0, 49, 7, 7]])


def test_ids_from_0_to_the_last_of_the_vocabulary_are_read_up_to_the_block_size() -> None:
    for ids in (GOOD, GOOD[:, :1], GOOD.expand(3, 4), torch.zeros(0, 4, dtype=torch.int64)):
        check_ids(ids, CONFIG)
    check_type(torch.zeros(2, 500, dtype=torch.int64))  # a prompt may be longer than the block


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[3, 50]]), "token id 50: this model's vocabulary has the ids 0 to 49"),
        (torch.tensor([[3, -1]]), "token id -1: this model's vocabulary has the ids 0 to 49"),
        (torch.tensor([[-7, 99]]), "token id -7: this model's vocabulary has the ids 0 to 49"),
        (torch.tensor([[0, 2**40, 1]]), "token id 1099511627776: this model's vocabulary has the ids 0 to 49"),
        (torch.zeros(1, 5, dtype=torch.int64), "a sequence of 5 tokens: this model takes 1 to 4 (its block size)"),
        (torch.zeros(1, 0, dtype=torch.int64), "a sequence of 0 tokens: this model takes 1 to 4 (its block size)"),
        (torch.tensor([3]), "ids of shape (1,) and type torch.int64: give int64 ids of shape (batch, time)"),
        (torch.tensor([[3.0]]), "ids of shape (1, 1) and type torch.float32: give int64 ids of shape (batch, time)"),
    ],
)
def test_other_ids_are_refused_in_one_line(ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_ids(ids, CONFIG)


@pytest.mark.parametrize("shape", [(2, 4), (1, 5), (4,)], ids=str)
def test_a_shape_is_checked_without_a_look_at_the_values(shape: tuple[int, ...]) -> None:
    """A tensor on the device meta has no values: reading one is an error."""
    ids = torch.zeros(shape, dtype=torch.int64, device="meta")
    if shape == (2, 4):
        check_shape(ids, CONFIG)
    else:
        with pytest.raises(ValueError, match=r"a sequence of 5 tokens|ids of shape"):
            check_shape(ids, CONFIG)
    with pytest.raises(NotImplementedError):
        check_values(ids, 50)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_values_are_looked_at_in_every_shape_and_kind_of_integer(dtype: torch.dtype) -> None:
    check_values(torch.arange(50).to(dtype), 50)
    with pytest.raises(ValueError, match=r"^token id 50: "):
        check_values(torch.arange(51).to(dtype).view(3, 17), 50)


def test_targets_may_be_minus_1_too() -> None:
    check_targets(torch.tensor([[-1, 0, 49, -1]]), GOOD, 50)
    check_targets(GOOD[:0], GOOD[:0], 50)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[0, 0, 0, 50]], "target 50: this model's vocabulary has the ids 0 to 49, and -1 means ignored"),
        ([[0, -100, 0, 0]], "target -100: this model's vocabulary has the ids 0 to 49, and -1 means ignored"),
        ([[0, 0, 0]], "targets of shape (1, 3) and type torch.int64: give int64, one for each of the ids (1, 4)"),
        ([[0.0] * 4], "targets of shape (1, 4) and type torch.float32: give int64, one for each of the ids (1, 4)"),
    ],
)
def test_other_targets_are_refused_in_one_line(targets: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_targets(torch.tensor(targets), GOOD, 50)


def test_the_lowest_value_outside_is_named_before_the_highest() -> None:
    values = torch.tensor([3, -2, 9, -5])
    assert outside(values, -5, 10) is None
    assert outside(values, -4, 9) == -5
    assert outside(values, -5, 9) == 9
    assert outside(values[:0], 0, 0) is None
