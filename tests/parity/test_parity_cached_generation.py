"""With a KV cache, generated tokens are those of the reference and of transformers' `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contenders.huggingface_model import HuggingFaceGPT, library_text
from optimized import FULL, Recipe, build, generate, only
from optimized.generation import CachedGPT, left_pad
from optimized.gpt import GPT
from reference import GPT as ReferenceGPT
from reference import generate as reference_generate
from tests.parity.prompts import CONFIG, NEW, PROMPTS, WEIGHTS, by_length, ids_of, prompts

BFLOAT16 = FULL.without("compile", "ddp")
RECIPES = {"kv_cache": only("kv_cache"), "full": BFLOAT16.without("bf16")}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.fixture(scope="module")
def reference() -> ReferenceGPT:
    model = ReferenceGPT(CONFIG).double().eval()
    model.load_state_dict(WEIGHTS)
    return model


@pytest.fixture(scope="module")
def huggingface() -> HuggingFaceGPT:
    model = HuggingFaceGPT(CONFIG, draw=False).double().eval()
    model.load_state_dict(WEIGHTS)
    return model


def fast(recipe: Recipe) -> GPT:
    return build(CONFIG, recipe, WEIGHTS, dtype=torch.float32 if "bf16" in recipe else torch.float64).eval()


def batches(size: int = 50) -> list[tuple[Tensor, Tensor]]:
    """All of them in batches of unequal lengths: ids and padding."""
    return [left_pad(prompts()[start : start + size]) for start in range(0, PROMPTS, size)]


@pytest.fixture(scope="module")
def oracle(reference: ReferenceGPT) -> tuple[list[list[int]], Tensor]:
    """How the reference goes on after each prompt, without padding or a cache, and its logits (PROMPTS, NEW, V)."""
    tokens: dict[int, list[int]] = {}
    logits = torch.zeros(PROMPTS, NEW, CONFIG.vocab_size, dtype=torch.float64)
    for T, numbers in by_length().items():
        ids = ids_of(numbers)
        out = reference_generate(reference, ids, NEW, temperature=0.0)
        tokens |= dict(zip(numbers, out[:, T:].tolist(), strict=True))
        with torch.no_grad():
            logits[numbers] = reference(out[:, :-1])[:, -NEW:]
    return [tokens[number] for number in range(PROMPTS)], logits


@pytest.fixture(scope="module", params=RECIPES)
def tokens(request: pytest.FixtureRequest) -> list[list[int]]:
    """How a recipe goes on after each prompt, in batches of unequal lengths, with the cache."""
    model, found = fast(RECIPES[request.param]), []
    for ids, padding in batches():
        assert bool(padding.any()), "a batch without padding"
        found += generate(model, ids, NEW, temperature=0.0, padding=padding)[:, ids.shape[1] :].tolist()
    return found


def assert_same_tokens(found: list[list[int]], expected: list[list[int]]) -> None:
    assert len(found) == len(expected) == PROMPTS
    wrong = [number for number, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    assert not wrong, f"prompts {wrong} of {[len(prompts()[number]) for number in wrong]} tokens go on differently"


def test_greedy_tokens_equal_the_references_over_1000_prompts(
    tokens: list[list[int]], oracle: tuple[list[list[int]], Tensor]
) -> None:
    """And so transformers', which test_parity_generation.py holds the reference against after the same prompts."""
    assert_same_tokens(tokens, oracle[0])


@every_recipe
def test_greedy_tokens_of_prompts_of_one_length_equal_the_references(
    recipe: Recipe, oracle: tuple[list[list[int]], Tensor]
) -> None:
    T, numbers = max(by_length().items(), key=lambda item: len(item[1]))
    ids = ids_of(numbers)
    found = generate(fast(recipe), ids, NEW, temperature=0.0)
    assert found[:, T:].tolist() == [oracle[0][number] for number in numbers]


@every_recipe
def test_so_do_those_of_a_left_padded_batch_of_transformers(recipe: Recipe, huggingface: HuggingFaceGPT) -> None:
    """Its `generate` counts positions from the attention mask."""
    model = fast(recipe)
    for ids, padding in batches()[:2]:
        mine = generate(model, ids, NEW, temperature=0.0, padding=padding)
        expected = library_text(huggingface, ids, NEW, padding, do_sample=False)
        rows = (mine != expected).any(dim=1).nonzero().flatten().tolist()
        assert not rows, f"rows {rows} with padding {padding[rows].tolist()} go on differently"


@every_recipe
@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 50},
        {"top_k": 50, "temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 20, "top_p": 0.8, "temperature": 1.7},
        {},
    ],
    ids=str,
)
def test_sampled_tokens_equal_those_of_transformers_from_the_same_random_stream(
    recipe: Recipe, huggingface: HuggingFaceGPT, settings: dict[str, Any]
) -> None:
    model = fast(recipe)
    ids, padding = left_pad(prompts()[:8])
    theirs = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings}
    for lead in (None, padding):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # transformers draws from the global generator
            expected = library_text(huggingface, ids, NEW, lead, do_sample=True, **theirs)
        mine = generate(model, ids, NEW, generator=torch.Generator().manual_seed(1), padding=lead, **settings)
        assert torch.equal(mine, expected), f"{int((mine != expected).sum())} tokens differ"


def test_in_bf16_a_token_differs_only_where_the_two_best_are_closer_than_the_error(
    oracle: tuple[list[list[int]], Tensor],
) -> None:
    """Each prompt with the reference's own continuation is shown to the model, so that one flip is not many."""
    model, found = fast(BFLOAT16), []
    tokens, exact = oracle
    for start in range(0, PROMPTS, 100):
        ids, padding = left_pad([prompts()[n] + tokens[n] for n in range(start, start + 100)])
        cached, first = CachedGPT(model, padding), ids.shape[1] - NEW - 1
        cached.extend(ids[:, :first])
        found.append(torch.cat([cached.extend(ids[:, t : t + 1]) for t in range(first, first + NEW)], dim=1))
    logits = torch.cat(found).double()  # (PROMPTS, NEW, V)
    assert exact.argmax(-1).tolist() == tokens
    error = (logits - exact).abs().amax(-1)  # (PROMPTS, NEW), of one logit
    best = exact.topk(2).values
    gap = best[..., 0] - best[..., 1]
    flipped, close = logits.argmax(-1) != exact.argmax(-1), gap <= 2 * error  # one logit may fall and the other rise
    assert not bool((flipped & ~close).any()), f"{(flipped & ~close).nonzero().tolist()}"
    typical = float((logits - exact).norm() / exact.norm())
    assert 1e-3 < typical < 3e-2, f"an error of {typical:.1e} is not that of bfloat16"
    assert float(close.double().mean()) < 1 / 3, "too many are too close for this to say anything"


@pytest.mark.gpu
@every_recipe
def test_on_cuda_greedy_tokens_equal_the_references(recipe: Recipe, oracle: tuple[list[list[int]], Tensor]) -> None:
    model, found = fast(recipe).to("cuda"), []
    for ids, padding in batches():
        out = generate(model, ids.cuda(), NEW, temperature=0.0, padding=padding.cuda())
        found += out[:, ids.shape[1] :].tolist()
    assert_same_tokens(found, oracle[0])
