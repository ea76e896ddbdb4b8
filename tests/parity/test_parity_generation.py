"""Generated tokens are those of transformers' `generate`, token for token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.contenders.huggingface_model import HuggingFaceGPT, library_text
from reference import GPT, generate
from tests.parity.prompts import CONFIG, NEW, PROMPTS, WEIGHTS, by_length, ids_of


@pytest.fixture(scope="module")
def models() -> tuple[GPT, HuggingFaceGPT]:
    ours, theirs = GPT(CONFIG).double().eval(), HuggingFaceGPT(CONFIG, draw=False).double().eval()
    ours.load_state_dict(WEIGHTS)
    theirs.load_state_dict(WEIGHTS)
    return ours, theirs


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)], ids="1 of {}".format)
def test_greedy_tokens_equal_those_of_transformers_over_1000_prompts(
    models: tuple[GPT, HuggingFaceGPT], share: int
) -> None:
    """So do those of the cache, which test_parity_cached_generation.py holds against ours after the same prompts."""
    ours, theirs = models
    for T, numbers in list(by_length().items())[::share]:
        ids = ids_of(numbers)
        mine, expected = generate(ours, ids, NEW, temperature=0.0), library_text(theirs, ids, NEW, do_sample=False)
        rows = (mine != expected).any(dim=1).nonzero().flatten().tolist()
        assert not rows, f"prompts {rows} of length {T} go on differently"
        assert mine.shape == (len(ids), T + NEW)
    assert sorted(number for numbers in by_length().values() for number in numbers) == list(range(PROMPTS))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 50},
        {"top_k": 50, "temperature": 0.7},
        {"top_k": 1},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"top_k": 20, "top_p": 0.8, "temperature": 1.7},
        {},
    ],
    ids=str,
)
def test_sampled_tokens_equal_those_of_transformers_from_the_same_random_stream(
    models: tuple[GPT, HuggingFaceGPT], settings: dict[str, Any]
) -> None:
    ours, theirs = models
    ids = torch.randint(CONFIG.vocab_size, (8, 9), generator=torch.Generator().manual_seed(1))
    theirs_settings = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings}
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # transformers draws from the global generator
            expected = library_text(theirs, ids, NEW, do_sample=True, **theirs_settings)
        mine = generate(ours, ids, NEW, generator=torch.Generator().manual_seed(seed), **settings)
        assert torch.equal(mine, expected), f"seed {seed}: {(mine != expected).sum()} tokens differ"


def test_other_seeds_give_other_tokens(models: tuple[GPT, HuggingFaceGPT]) -> None:
    ids = torch.zeros(4, 3, dtype=torch.int64)
    a, b = (generate(models[0], ids, NEW, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(a, b)


def test_beyond_the_block_size_the_last_block_is_read_from_position_zero(
    models: tuple[GPT, HuggingFaceGPT],
) -> None:
    ours = models[0]
    ids = torch.randint(CONFIG.vocab_size, (2, CONFIG.block_size - 3), generator=torch.Generator().manual_seed(2))
    out = generate(ours, ids, 10, temperature=0.0)
    for t in range(ids.shape[1], out.shape[1]):
        seen = out[:, max(0, t - CONFIG.block_size) : t]
        expected = ours(seen)[:, -1].argmax(-1)
        assert torch.equal(out[:, t], expected), f"token {t}"
