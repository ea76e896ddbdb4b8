"""With a KV cache the logits are those of the whole text, for every split and padding."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.numerics.inputs import random_batch
from optimized import FULL, PLAIN, Recipe, only
from optimized.cache import Cache
from optimized.generation import CachedGPT, left_pad
from optimized.gpt import GPT
from reference import GPTConfig
from tests.optimized.models import SMALL, relative, sharp_model, sharp_reference

BLOCK = SMALL.block_size
RECIPES = {"alone": only("kv_cache"), "full": FULL.without("bf16", "compile", "ddp")}
MODELS = {name: sharp_model(recipe).eval() for name, recipe in RECIPES.items()}
REFERENCE = sharp_reference().eval()
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def in_pieces(cached: CachedGPT, ids: Tensor, cuts: list[int]) -> Tensor:
    """The logits of all tokens; the text is read in the pieces between the cuts."""
    ends = [0, *cuts, ids.shape[1]]
    return torch.cat([cached.extend(ids[:, a:b]) for a, b in pairwise(ends)], dim=1)


def ids_of(B: int, T: int, seed: int = 0) -> Tensor:
    return random_batch(SMALL, B, T, seed=seed)[0]


@every_model
@settings(max_examples=40)
@given(data=st.data(), T=st.integers(1, BLOCK), B=st.integers(1, 3))
def test_cached_logits_are_the_uncached_ones_however_the_text_is_cut(
    model: GPT, data: st.DataObject, T: int, B: int
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1)))) if T > 1 else []
    ids = ids_of(B, T, seed=T)
    logits = in_pieces(CachedGPT(model, B), ids, cuts)
    assert relative(logits, REFERENCE(ids)) <= 1e-12
    assert relative(logits, model(ids)) <= 1e-12


@every_model
@pytest.mark.parametrize("cuts", [[], list(range(1, BLOCK)), [1], [BLOCK - 1], [7, 8, 20]], ids=str)
def test_cached_logits_of_the_whole_block_are_the_uncached_ones(model: GPT, cuts: list[int]) -> None:
    ids = ids_of(2, BLOCK)
    assert relative(in_pieces(CachedGPT(model, 2), ids, cuts), REFERENCE(ids)) <= 1e-12


@every_model
@settings(max_examples=40)
@given(data=st.data(), lengths=st.lists(st.integers(1, BLOCK), min_size=1, max_size=5))
@example(data=None, lengths=[1, BLOCK])
@example(data=None, lengths=[BLOCK, 1, 1, 5])
def test_a_padded_batch_gives_each_row_what_it_gets_alone(
    model: GPT, data: st.DataObject | None, lengths: list[int]
) -> None:
    ids, padding = left_pad([ids_of(1, T, seed=i)[0].tolist() for i, T in enumerate(lengths)])
    T = ids.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1)))) if T > 1 and data is not None else []
    logits = in_pieces(CachedGPT(model, padding), ids, cuts)
    assert logits.isfinite().all(), "padding gives something that is not a number"
    for row, length in enumerate(lengths):
        alone = REFERENCE(ids[row : row + 1, T - length :])
        assert relative(logits[row : row + 1, T - length :], alone) <= 1e-12, f"row {row} of lengths {lengths}"


@every_model
def test_what_stands_in_the_padding_does_not_matter(model: GPT) -> None:
    ids, padding = left_pad([[1, 2], [3, 4, 5, 6, 7, 8], [9]])
    logits = CachedGPT(model, padding).extend(ids, last=1)
    for value in (0, 50, SMALL.vocab_size - 1):
        other = ids.clone()
        for row, count in enumerate(padding.tolist()):
            other[row, :count] = value
        assert torch.equal(CachedGPT(model, padding).extend(other, last=1), logits)


@every_model
def test_only_the_logits_that_are_wanted_are_made(model: GPT) -> None:
    ids = ids_of(2, 9)
    whole = CachedGPT(model, 2).extend(ids)
    for last in (1, 4, 9):
        some = CachedGPT(model, 2).extend(ids, last=last)
        assert some.shape == (2, last, SMALL.vocab_size)
        assert relative(some, whole[:, -last:]) <= 1e-12


@every_model
def test_the_rows_of_a_batch_do_not_see_each_other(model: GPT) -> None:
    ids = ids_of(3, 8)
    changed = ids.clone()
    changed[1] = changed[1].flip(0)
    a, b = (in_pieces(CachedGPT(model, 3), batch, [3, 5]) for batch in (ids, changed))
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(a[1], b[1])


def test_two_texts_of_one_model_do_not_disturb_each_other() -> None:
    model = MODELS["full"]
    first, second = ids_of(1, 10, seed=1), ids_of(1, 10, seed=2)
    a, b = CachedGPT(model, 1), CachedGPT(model, 1)
    logits = [(a.extend(first[:, t : t + 2]), b.extend(second[:, t : t + 2])) for t in range(0, 10, 2)]
    for ids, pieces in zip((first, second), zip(*logits, strict=True), strict=True):
        assert relative(torch.cat(pieces, dim=1), REFERENCE(ids)) <= 1e-12


def test_memory_is_taken_once_and_nothing_is_moved() -> None:
    cached = CachedGPT(MODELS["full"], 2, room=12)
    cache = cached.cache
    shape = (SMALL.n_layer, 2, SMALL.n_head, 12, SMALL.head_size)
    assert cache.keys.shape == cache.values.shape == shape
    before = cache.keys.data_ptr(), cache.values.data_ptr()
    ids = ids_of(2, 12)
    cached.extend(ids[:, :5])
    kept = cache.keys[:, :, :, :5].clone()
    for t in range(5, 12):
        cached.extend(ids[:, t : t + 1])
        assert cache.length == t + 1
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == before
    assert torch.equal(cache.keys[:, :, :, :5], kept)
    assert bool((cache.keys != 0).any(-1).all()), "a place that nothing was written to"


@pytest.mark.parametrize("recipe", [only("kv_cache", "bf16"), FULL.without("compile", "ddp")], ids=str)
def test_under_bf16_keys_and_values_are_bfloat16_and_logits_round_as_the_models_do(recipe: Recipe) -> None:
    model = sharp_model(recipe).eval()
    ids = ids_of(2, BLOCK)
    exact = REFERENCE(ids)
    cached = CachedGPT(model, 2)
    logits = in_pieces(cached, ids, [5, 6, 7, 15])
    assert cached.cache.keys.dtype == cached.cache.values.dtype == torch.bfloat16
    with torch.no_grad():
        plain = relative(model(ids), exact)
    assert plain > 1e-3
    assert relative(logits, exact) <= 2 * plain, f"{relative(logits, exact):.1e} cached, {plain:.1e} uncached"


def test_exact_models_keep_theirs_in_the_precision_of_the_weights() -> None:
    for dtype in (torch.float32, torch.float64):
        model = sharp_model(only("kv_cache"), dtype=dtype).eval()
        assert CachedGPT(model, 1).cache.keys.dtype == dtype


def test_nothing_of_it_is_kept_for_a_backward_pass() -> None:
    cached = CachedGPT(sharp_model(only("kv_cache")), 1)
    logits = cached.extend(ids_of(1, 4))
    assert not logits.requires_grad
    assert not cached.cache.keys.requires_grad


# --- positions and masks, by hand


def a_cache(padding: list[int], room: int = 6) -> Cache:
    config = GPTConfig(block_size=6, vocab_size=3, n_layer=1, n_head=1, n_embd=1)
    return Cache(config, torch.tensor(padding), room, torch.float64, padded=any(padding))


def test_positions_count_from_each_rows_first_token() -> None:
    cache = a_cache([0, 2])
    assert cache.positions(4).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    cache.advance(4)
    assert cache.positions(2).tolist() == [[4, 5], [2, 3]]


def test_masks_hide_what_is_later_and_what_is_padding_but_leave_each_row_one_key() -> None:
    cache = a_cache([0, 2])
    mask = cache.mask(3)
    assert mask is not None
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    cache.advance(3)
    mask = cache.mask(1)
    assert mask is not None
    assert mask[:, 0, 0].int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_one_token_without_padding_needs_no_mask() -> None:
    cache = a_cache([0, 0])
    cache.advance(3)
    assert cache.mask(1) is None


def test_padding_of_zeros_is_masked_all_the_same_unless_it_is_said_to_be_none() -> None:
    """Its values are on the device and not read."""
    cache = Cache(SMALL, torch.tensor([0, 0]), 6, torch.float64)
    cache.advance(3)
    mask = cache.mask(1)
    assert mask is not None
    assert mask.all()
    ids = ids_of(2, 5)
    with_mask = in_pieces(CachedGPT(MODELS["alone"], torch.tensor([0, 0])), ids, [2, 3, 4])
    assert relative(with_mask, in_pieces(CachedGPT(MODELS["alone"], 2), ids, [2, 3, 4])) <= 1e-12


def test_there_may_be_room_for_a_single_token() -> None:
    assert a_cache([0], room=1).keys.shape == (1, 1, 1, 1, 1)


# --- bad input


@pytest.mark.parametrize("room", [-1, 0, 7, 1000])
def test_an_invalid_room_is_refused(room: int) -> None:
    with pytest.raises(ValueError, match=rf"^a cache for {room} tokens: give 1 to 6 \(the model's block size\)$"):
        a_cache([0], room)


def test_more_tokens_than_fit_are_refused_and_nothing_is_lost() -> None:
    cached = CachedGPT(MODELS["alone"], 1, room=8)
    ids = ids_of(1, 9)
    cached.extend(ids[:, :6])
    with pytest.raises(ValueError, match=r"^3 tokens after 6: the cache has room for 8 in all$"):
        cached.extend(ids[:, 6:])
    assert relative(cached.extend(ids[:, 6:8]), REFERENCE(ids[:, :8])[:, 6:]) <= 1e-12


@pytest.mark.parametrize("rows", [1, 3])
def test_another_number_of_rows_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"^{rows} rows for a cache of 2: give as many$"):
        CachedGPT(MODELS["alone"], 2).extend(ids_of(rows, 3))


@pytest.mark.parametrize(
    "ids, message",
    [
        (torch.zeros(1, 0, dtype=torch.int64), r"^a sequence of 0 tokens: this model takes 1 to 24"),
        (torch.zeros(1, 25, dtype=torch.int64), r"^a sequence of 25 tokens: this model takes 1 to 24"),
        (torch.zeros(1, 2), r"^ids of shape \(1, 2\) and type torch.float32: give int64"),
        (torch.zeros(2, dtype=torch.int64), r"^ids of shape \(2,\)"),
    ],
    ids=["none", "too many", "floats", "flat"],
)
def test_ids_that_no_model_can_read_are_refused(ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CachedGPT(MODELS["alone"], 1).extend(ids)


@every_model
@pytest.mark.parametrize("bad", [101, -1])
def test_values_are_left_to_torch_which_refuses_them_on_the_cpu(model: GPT, bad: int) -> None:
    """Also with a padded table, which has a row 101."""
    with pytest.raises(IndexError, match="index out of range in self"):
        CachedGPT(model, 1).extend(torch.tensor([[bad]]))


@pytest.mark.parametrize("last", [0, -1, 4])
def test_logits_of_tokens_that_are_not_there_are_refused(last: int) -> None:
    with pytest.raises(ValueError, match=rf"^the last {last} of 3 tokens: give 1 to 3$"):
        CachedGPT(MODELS["alone"], 1).extend(ids_of(1, 3), last=last)


def test_wrong_caches_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that count padding, and padding that is seen, are far beyond the bounds above."""
    ids, padding = left_pad([[1, 2], [3, 4, 5, 6, 7, 8]])
    right = CachedGPT(MODELS["alone"], padding).extend(ids, last=1)
    with monkeypatch.context() as patch:
        patch.setattr(Cache, "positions", lambda self, T: torch.arange(self.length, self.length + T)[None])
        assert relative(CachedGPT(MODELS["alone"], padding).extend(ids, last=1)[0], right[0]) > 1e-3
    cached = CachedGPT(MODELS["alone"], padding)
    cached.cache.padded = False
    assert relative(cached.extend(ids, last=1)[0], right[0]) > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_on_cuda_cached_and_padded_logits_are_those_of_each_row_alone(recipe: Recipe) -> None:
    model = sharp_model(recipe, device="cuda").eval()
    ids, padding = left_pad([[1, 2], list(range(20)), [3, 4, 5]], device="cuda")
    logits = in_pieces(CachedGPT(model, padding), ids, [1, 6, 7, 19])
    for row, count in enumerate(padding.tolist()):
        alone = REFERENCE(ids[row : row + 1, count:].cpu())
        assert relative(logits[row : row + 1, count:], alone) <= 1e-12


def test_plain_models_can_be_shown_a_text_too() -> None:
    model = sharp_model(PLAIN).eval()
    ids = ids_of(2, 7)
    assert relative(in_pieces(CachedGPT(model, 2), ids, [3]), REFERENCE(ids)) <= 1e-12
