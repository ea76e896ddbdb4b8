"""Generated tokens are the reference's: greedy or sampled, alone or in a batch, within and beyond the block size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.numerics.inputs import random_batch
from optimized import FULL, PLAIN, Recipe, generate, only
from optimized.generation import cached_stream, left_pad
from optimized.gpt import GPT
from reference import generate as reference_generate
from reference.sampling import Sampling
from tests.optimized.models import SMALL, sharp_model, sharp_reference

BLOCK = SMALL.block_size
RECIPES = {
    "plain": PLAIN,
    "alone": only("kv_cache"),
    "full": FULL.without("bf16", "compile", "ddp"),
    "without": FULL.without("bf16", "compile", "ddp", "kv_cache"),
}
MODELS = {name: sharp_model(recipe).eval() for name, recipe in RECIPES.items()}
REFERENCE = sharp_reference().eval()
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
every_cached_model = pytest.mark.parametrize("model", [MODELS["alone"], MODELS["full"]], ids=["alone", "full"])
GREEDY: dict[str, Any] = {"temperature": 0.0}
SETTINGS: list[dict[str, Any]] = [
    GREEDY,
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"top_k": 20, "top_p": 0.8, "temperature": 1.7},
]


def ids_of(B: int, T: int, seed: int = 0) -> Tensor:
    return random_batch(SMALL, B, T, seed=seed)[0]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("B, T", [(1, 1), (8, 10)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@every_model
def test_the_same_stream_of_random_numbers_gives_the_references_tokens(
    model: GPT, settings: dict[str, Any], B: int, T: int
) -> None:
    ids = ids_of(B, T, seed=B)
    for seed in range(2):
        mine = generate(model, ids, 9, generator=drawn(seed), **settings)
        assert torch.equal(mine, reference_generate(REFERENCE, ids, 9, generator=drawn(seed), **settings))
        assert torch.equal(mine[:, :T], ids)


@every_model
def test_the_generators_are_left_in_the_same_state(model: GPT) -> None:
    mine, theirs = drawn(0), drawn(0)
    generate(model, ids_of(2, 3), 5, generator=mine)
    reference_generate(REFERENCE, ids_of(2, 3), 5, generator=theirs)
    assert torch.equal(mine.get_state(), theirs.get_state())


@every_model
def test_without_a_generator_torchs_own_is_drawn_from(model: GPT) -> None:
    tokens = []
    for function, side in ((generate, model), (reference_generate, REFERENCE)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            tokens.append(function(side, ids_of(2, 3), 8))
    assert torch.equal(*tokens)


@pytest.mark.parametrize("settings", [GREEDY, {"top_k": 7}], ids=str)
@pytest.mark.parametrize("T", [1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@every_model
def test_beyond_the_block_size_it_goes_on_as_the_reference_does(model: GPT, T: int, settings: dict[str, Any]) -> None:
    ids, count = ids_of(2, T), BLOCK + 5 if T == 1 else 6
    mine = generate(model, ids, count, generator=drawn(1), **settings)
    assert torch.equal(mine, reference_generate(REFERENCE, ids, count, generator=drawn(1), **settings))


@pytest.mark.parametrize(
    "lengths", [[3, 1, 7], [1, 1], [5], [BLOCK, 1, 12], [BLOCK + 4, 3], [BLOCK - 1, BLOCK - 2]], ids=str
)
@every_cached_model
def test_prompts_of_unequal_length_go_on_as_each_alone_across_the_block_size_too(
    model: GPT, lengths: list[int]
) -> None:
    prompts = [ids_of(1, T, seed=i)[0].tolist() for i, T in enumerate(lengths)]
    ids, padding = left_pad(prompts)
    together = generate(model, ids, BLOCK, temperature=0.0, padding=padding)
    assert torch.equal(together[:, : ids.shape[1]], ids)
    for row, prompt in enumerate(prompts):
        alone = reference_generate(REFERENCE, torch.tensor([prompt]), BLOCK, temperature=0.0)
        assert torch.equal(together[row, int(padding[row]) :], alone[0]), f"row {row} of {len(prompt)} tokens"


@every_cached_model
def test_what_stands_in_the_padding_does_not_matter(model: GPT) -> None:
    ids, padding = left_pad([[1, 2], [3, 4, 5, 6, 7, 8], [9]])
    tokens = generate(model, ids, 12, generator=drawn(0), padding=padding)[:, 6:]
    for value in (1, SMALL.vocab_size - 1):
        other = ids.clone()
        for row, count in enumerate(padding.tolist()):
            other[row, :count] = value
        assert torch.equal(generate(model, other, 12, generator=drawn(0), padding=padding)[:, 6:], tokens)


@every_cached_model
def test_padding_of_nothing_changes_nothing(model: GPT) -> None:
    ids = ids_of(2, 4)
    none = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(generate(model, ids, 9, **GREEDY), generate(model, ids, 9, padding=none, **GREEDY))


@every_model
def test_no_new_tokens_are_the_prompt(model: GPT) -> None:
    ids = ids_of(2, 4)
    assert torch.equal(generate(model, ids, 0), ids)
    assert generate(model, ids[:0], 3).shape == (0, 7)


@every_cached_model
def test_tokens_come_one_at_a_time_and_only_as_many_as_are_asked_for(model: GPT) -> None:
    ids = ids_of(2, 4)
    whole = generate(model, ids, 6, **GREEDY)
    stream = cached_stream(model, ids, 6, Sampling(**GREEDY))
    first = next(stream)
    assert first.shape == (2, 1)
    assert torch.equal(torch.cat([first, *stream], dim=1), whole[:, 4:])


@every_model
def test_the_prompt_the_weights_and_the_mode_are_left_alone(model: GPT) -> None:
    ids = ids_of(2, 4)
    kept, state = ids.clone(), {n: t.clone() for n, t in model.state_dict().items()}
    generate(model, ids, 5)
    assert torch.equal(ids, kept)
    assert not model.training
    assert torch.is_grad_enabled()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("settings", [GREEDY, {"top_k": 5}], ids=str)
def test_in_bf16_the_cache_does_not_change_what_is_possible(settings: dict[str, Any]) -> None:
    model = sharp_model(FULL.without("compile", "ddp")).eval()
    out = generate(model, ids_of(4, 5), BLOCK, generator=drawn(0), **settings)
    assert out.shape == (4, 5 + BLOCK)
    assert int(out.min()) >= 0
    assert int(out.max()) < SMALL.vocab_size


# --- bad input


@pytest.mark.parametrize(
    "ids, settings, message",
    [
        (
            torch.zeros(1, 0, dtype=torch.int64),
            {},
            r"^ids of shape \(1, 0\): give \(batch, time\) with at least one token",
        ),
        (torch.zeros(3, dtype=torch.int64), {}, r"^ids of shape \(3,\): give \(batch, time\)"),
        (torch.tensor([[101]]), {}, r"^token id 101: this model's vocabulary has the ids 0 to 100$"),
        (torch.tensor([[0, -1]]), {}, r"^token id -1: this model's vocabulary has the ids 0 to 100$"),
        (torch.tensor([[101] + BLOCK * [0]]), {}, r"^token id 101: "),
        (torch.tensor([[0.0]]), {}, r"^ids of shape \(1, 1\) and type torch.float32: give int64 ids of shape"),
        (torch.tensor([[0]]), {"max_new_tokens": -1}, r"^-1 new tokens: give 0 or more$"),
        (torch.tensor([[0]]), {"temperature": -1.0}, r"^temperature -1.0: give 0 \(greedy\) or more$"),
        (torch.tensor([[0]]), {"top_k": 0}, r"^top-k 0: give 1 or more"),
        (torch.tensor([[0]]), {"top_p": 1.5}, r"^top-p 1.5: give a number above 0, at most 1"),
    ],
    ids=[
        "empty",
        "flat",
        "too high",
        "negative",
        "too high and not seen",
        "floats",
        "negative count",
        "temperature",
        "top-k",
        "top-p",
    ],
)
@every_model
def test_an_invalid_prompt_is_refused(model: GPT, ids: Tensor, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, ids, **{"max_new_tokens": 2, **settings})


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize(
    "padding, message",
    [
        (torch.tensor([0, 4]), r"^padding from 0 to 4 for rows of 4 tokens: give 0 to 3$"),
        (torch.tensor([-1, 0]), r"^padding from -1 to 0 for rows of 4 tokens: give 0 to 3$"),
        (torch.tensor([0]), r"^padding of shape \(1,\) and type torch.int64: give int64, one for each of the 2 rows$"),
        (torch.tensor([[0], [1]]), r"^padding of shape \(2, 1\) and type torch.int64"),
        (torch.tensor([0.0, 1.0]), r"^padding of shape \(2,\) and type torch.float32: give int64"),
    ],
    ids=["all of it", "negative", "one for two", "two dimensions", "floats"],
)
@every_cached_model
def test_invalid_padding_is_refused(model: GPT, padding: Tensor, message: str, count: int) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, ids_of(2, 4), count, padding=padding)


@pytest.mark.parametrize("model", [MODELS["plain"], MODELS["without"]], ids=["plain", "without"])
def test_prompts_of_unequal_length_need_the_rung_and_say_so(model: GPT) -> None:
    with pytest.raises(
        ValueError, match=r"^prompts of unequal length need the rung kv_cache: build the model with it$"
    ):
        generate(model, ids_of(2, 4), 2, padding=torch.tensor([0, 1]))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]], ids=str)
def test_prompts_without_a_token_are_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=rf"^{len(prompts)} prompts, .*: give at least one, none of them empty$"):
        left_pad(prompts)


def test_left_pad_works_where_it_is_told() -> None:
    assert [tensor.device.type for tensor in left_pad([[1], [2, 3]], "meta")] == ["meta", "meta"]


def test_left_pad_puts_prompts_to_the_right() -> None:
    ids, padding = left_pad([[1], [2, 3, 4], [5, 6]])
    assert ids.tolist() == [[0, 0, 1], [2, 3, 4], [0, 5, 6]]
    assert padding.tolist() == [2, 0, 1]
    assert ids.dtype == padding.dtype == torch.int64


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [only("kv_cache"), RECIPES["full"]], ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_on_cuda_the_same_stream_gives_the_references_tokens(recipe: Recipe, settings: dict[str, Any]) -> None:
    model, reference = sharp_model(recipe, device="cuda").eval(), sharp_reference().cuda().eval()
    ids = ids_of(4, 5).cuda()
    mine, theirs = (
        function(side, ids, BLOCK, generator=torch.Generator("cuda").manual_seed(7), **settings)
        for function, side in ((generate, model), (reference_generate, reference))
    )
    assert torch.equal(mine, theirs)
