"""Batches are pure functions of (seed, step, rank, world); validation misses and repeats no token."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.data.batches import Batches, windows
from reference.data.shards import TokenSequence

both_orders = pytest.mark.parametrize("order", ["random", "sequential"])

sizes = {"block_size": st.integers(1, 9), "batch_size": st.integers(1, 12)}


def kept_as(kind, values, tmp_path=None):
    """The same tokens in each kind of storage."""
    if kind == "torch":
        return torch.tensor(values, dtype=torch.int32)
    array = np.array(values, dtype=np.uint16)
    if kind == "memmap":
        array.tofile(tmp_path / "tokens.bin")
        return np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    if kind == "shards":
        return TokenSequence(np.array_split(array, 7))
    return list(values)


# Training


@both_orders
@given(seed=st.integers(), step=st.integers(0, 10**6), extra=st.integers(0, 50), **sizes)
def test_every_row_is_a_run_of_tokens_and_targets_are_one_further(order, seed, step, extra, block_size, batch_size):
    tokens = torch.arange(100, 101 + block_size + extra)
    ids, targets = Batches(tokens, block_size, batch_size, seed, order).at(step)
    assert ids.shape == targets.shape == (batch_size, block_size)
    assert ids.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, ids + 1)  # these tokens count upwards
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert ids.min() >= 100
    assert targets.max() <= tokens[-1]


@both_orders
@given(seed=st.integers(), step=st.integers(0, 10**6), world=st.integers(1, 6), share=st.integers(1, 4))
def test_the_ranks_together_see_the_batch_of_one_rank_in_order(order, seed, step, world, share):
    batches = Batches(torch.arange(200), block_size=5, batch_size=world * share, seed=seed, order=order)
    ids, targets = batches.at(step)
    parts = [batches.at(step, rank, world) for rank in range(world)]
    assert all(part_ids.shape == (share, 5) for part_ids, _ in parts)
    assert torch.equal(torch.cat([part_ids for part_ids, _ in parts]), ids)
    assert torch.equal(torch.cat([part_targets for _, part_targets in parts]), targets)


@both_orders
def test_a_step_is_the_same_whatever_was_asked_before(order):
    def fresh():
        return Batches(torch.arange(500), block_size=8, batch_size=4, seed=7, order=order)

    forwards, used = fresh(), fresh()
    expected = {step: forwards.at(step) for step in range(20)}
    for step in random.Random(0).sample(range(20), 20):
        torch.manual_seed(step)
        used.at(step + 100)
        for (ids, targets), other in ((used.at(step), expected[step]), (fresh().at(step), expected[step])):
            assert torch.equal(ids, other[0])
            assert torch.equal(targets, other[1])


@both_orders
def test_no_random_state_of_the_process_is_touched(order):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    tokens = torch.arange(100)
    Batches(tokens, block_size=8, batch_size=4, seed=1, order=order).at(3)
    list(windows(tokens, block_size=8, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_random_rows_of_a_seed_never_change():
    """Worked out with sha256sum: a run resumed under newer versions must see the same tokens."""
    batches = Batches(torch.arange(1000), block_size=4, batch_size=3, seed=1337)
    assert batches.at(0)[0].tolist() == [[251, 252, 253, 254], [948, 949, 950, 951], [162, 163, 164, 165]]
    assert batches.at(1)[0].tolist() == [[317, 318, 319, 320], [757, 758, 759, 760], [765, 766, 767, 768]]


def test_the_sequential_rows_run_end_to_end_and_round_again():
    # 11 tokens in blocks of 3: the full ones begin at 0, 3 and 6.
    batches = Batches(torch.arange(11), block_size=3, batch_size=2, seed=0, order="sequential")
    assert batches.at(0)[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert batches.at(0)[1].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batches.at(1)[0].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert batches.at(2)[0].tolist() == [[3, 4, 5], [6, 7, 8]]
    assert batches.at(3)[0].tolist() == batches.at(0)[0].tolist()


@given(length=st.integers(2, 120), epochs=st.integers(1, 3), **sizes)
def test_a_sequential_epoch_has_every_full_block_once(length, epochs, block_size, batch_size):
    tokens = torch.arange(max(length, block_size + 1))
    full_blocks = (len(tokens) - 1) // block_size
    batches = Batches(tokens, block_size, batch_size, seed=0, order="sequential")
    steps = -(-epochs * full_blocks // batch_size)
    starts = torch.cat([batches.at(step)[0][:, 0] for step in range(steps)]).tolist()
    one_epoch = list(range(0, full_blocks * block_size, block_size))
    assert starts[: epochs * full_blocks] == one_epoch * epochs


def test_random_rows_begin_everywhere_and_equally_often():
    batches = Batches(torch.arange(24), block_size=4, batch_size=50, seed=3)
    seen = Counter(int(start) for step in range(100) for start in batches.at(step)[0][:, 0])
    assert sorted(seen) == list(range(20)), "the first start is 0, the last leaves room for one block and a target"
    # 5,000 draws among 20: a count has mean 250 and standard deviation 15.4.
    assert 250 - 5 * 15.4 < min(seen.values()) <= max(seen.values()) < 250 + 5 * 15.4, seen


def test_seeds_steps_and_rows_differ_from_each_other():
    def rows(seed, step):
        starts = Batches(torch.arange(10**6), block_size=4, batch_size=8, seed=seed).at(step)[0][:, 0]
        return tuple(starts.tolist())

    # 1 and 1 + 2**32 are one seed to a generator of 32 bits; (1, 12) and (11, 2) are one without the space.
    drawn = [rows(*key) for key in [(1, 12), (11, 2), (1, 2), (2, 1), (-1, 2), (1 + 2**32, 2), (1, 2 + 2**32)]]
    assert len({start for starts in drawn for start in starts}) == 8 * len(drawn)


@both_orders
@pytest.mark.parametrize("kind", ["torch", "memmap", "shards", "list"])
def test_the_way_tokens_are_kept_changes_nothing(order, kind, tmp_path):
    values = [(i * 7919) % 50257 for i in range(300)]
    expected = Batches(torch.tensor(values), block_size=16, batch_size=6, seed=5, order=order)
    batches = Batches(kept_as(kind, values, tmp_path), block_size=16, batch_size=6, seed=5, order=order)
    for step in range(12):
        for ours, theirs in zip(batches.at(step), expected.at(step), strict=True):
            assert ours.dtype == torch.int64
            assert torch.equal(ours, theirs)


# Validation


@given(length=st.integers(2, 120), **sizes)
def test_windows_have_every_token_but_the_first_as_a_target_once(length, block_size, batch_size):
    tokens = torch.arange(100, 100 + length)
    batches = list(windows(tokens, block_size, batch_size))
    assert all(ids.shape == targets.shape for ids, targets in batches)
    assert all(ids.dtype == targets.dtype == torch.int64 for ids, targets in batches)
    assert [len(ids) for ids, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    ids = torch.cat([ids for ids, _ in batches])
    targets = torch.cat([targets for _, targets in batches])
    assert ids.shape == (-(-(length - 1) // block_size), block_size)
    real = targets != -1
    assert torch.equal(targets[real], tokens[1:])
    assert torch.equal(ids[real], tokens[:-1])
    assert torch.equal(ids[~real], torch.zeros_like(ids[~real])), "padding is an id that every vocabulary has"
    assert real.flatten().tolist() == sorted(real.flatten().tolist(), reverse=True), "padding is at the very end"


@pytest.mark.parametrize("kind", ["torch", "memmap", "shards", "list"])
def test_windows_worked_by_hand(kind, tmp_path):
    tokens = kept_as(kind, [5, 6, 7, 8, 9, 10, 11], tmp_path)
    first, second = windows(tokens, block_size=4, batch_size=1)
    assert [part.tolist() for part in first] == [[[5, 6, 7, 8]], [[6, 7, 8, 9]]]
    assert [part.tolist() for part in second] == [[[9, 10, 0, 0]], [[10, 11, -1, -1]]]


# Ids


@pytest.mark.parametrize("kind", ["torch", "memmap", "shards", "list"])
def test_a_token_beyond_the_vocabulary_is_refused(kind, tmp_path):
    tokens = kept_as(kind, [5, 6, 7, 8, 9, 10, 11], tmp_path)
    for vocab_size in (None, 12):
        Batches(tokens, 6, 1, seed=0, vocab_size=vocab_size).at(0)
        assert len(list(windows(tokens, 2, 1, vocab_size))) == 3
    with pytest.raises(ValueError, match=r"^token id 11: this model's vocabulary has the ids 0 to 10$"):
        Batches(tokens, 6, 1, seed=0, vocab_size=11).at(0)
    with pytest.raises(ValueError, match=r"^token id 11: this model's vocabulary has the ids 0 to 10$"):
        list(windows(tokens, 2, 1, 11))


def test_bad_tokens_of_a_tensor_are_refused_at_once_and_those_on_disk_when_fetched(tmp_path):
    """A tensor may be on a device, where each read waits; a file may have too many tokens to read first."""
    values = [1, 2, 3, 4, 99, 5, 6, 7, 8]
    with pytest.raises(ValueError, match=r"^token id 99: "):
        Batches(torch.tensor(values), 2, 1, seed=0, vocab_size=10)
    with pytest.raises(ValueError, match=r"^token id 99: "):
        windows(torch.tensor(values, dtype=torch.int32), 2, 1, 10)
    on_disk = kept_as("shards", values, tmp_path)
    batches = Batches(on_disk, 2, 1, seed=0, order="sequential", vocab_size=10)
    assert batches.at(0)[0].tolist() == [[1, 2]]
    for step in (1, 2):  # as a target, as an input
        with pytest.raises(ValueError, match=r"^token id 99: "):
            batches.at(step)
    assert batches.at(3)[0].tolist() == [[6, 7]]
    judged = windows(on_disk, 2, 1, 10)
    assert next(judged)[0].tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"^token id 99: "):
        next(judged)


def test_a_negative_token_is_refused_and_never_taken_for_a_target_that_does_not_count():
    with pytest.raises(ValueError, match=r"^token id -1: this model's vocabulary has the ids 0 to 9$"):
        Batches([1, -1, 2], 2, 1, seed=0, vocab_size=10).at(0)
    with pytest.raises(ValueError, match=r"^token id -1: "):
        Batches(torch.tensor([1, -1, 2]), 2, 1, seed=0, vocab_size=10)


# Bad input


@both_orders
def test_a_text_shorter_than_a_block_and_a_target_is_refused_with_the_numbers(order):
    with pytest.raises(
        ValueError, match=r"64 tokens are too few for blocks of 64: at least 65 are needed .*; use a longer"
    ):
        Batches(torch.arange(64), block_size=64, batch_size=2, seed=0, order=order)
    ids, _ = Batches(torch.arange(65), block_size=64, batch_size=2, seed=0, order=order).at(5)
    assert ids.tolist() == [list(range(64))] * 2


def test_a_world_that_does_not_divide_the_batch_is_refused_with_the_numbers():
    batches = Batches(torch.arange(100), block_size=4, batch_size=12, seed=0)
    for world in (5, 24, 0, -1):
        with pytest.raises(ValueError, match=f"^a batch of 12 rows cannot be shared equally by {world} ranks") as said:
            batches.at(0, 0, world)
        assert str(said.value).endswith("ranks: choose a batch size that the number of ranks divides")


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank {rank} is none of 3: ranks run from 0 to 2"):
        Batches(torch.arange(100), block_size=4, batch_size=12, seed=0).at(0, rank, 3)


def test_a_step_below_zero_is_refused():
    with pytest.raises(ValueError, match="step -1 is below 0"):
        Batches(torch.arange(100), block_size=4, batch_size=12, seed=0).at(-1)


def test_an_unknown_order_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown order 'shuffled': choose one of random, sequential"):
        Batches(torch.arange(100), block_size=4, batch_size=12, seed=0, order="shuffled")


@pytest.mark.parametrize(
    "block_size, batch_size, named",
    [(0, 1, "block size 0"), (1, 0, "batch size 0"), (-4, 1, "block size -4")],
)
def test_sizes_below_one_are_refused(block_size, batch_size, named):
    with pytest.raises(ValueError, match=f"{named} is below 1"):
        Batches(torch.arange(100), block_size, batch_size, seed=0)
    with pytest.raises(ValueError, match=f"{named} is below 1"):
        windows(torch.arange(100), block_size, batch_size)


def test_too_few_tokens_to_validate_on_are_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="1 tokens are too few to validate on: at least 2 are needed"):
        windows(torch.arange(1), block_size=4, batch_size=2)
