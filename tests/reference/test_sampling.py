"""Sampling: the tokens that can be drawn, and their frequencies."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.sampling import Sampling, generate, keep_top_p, next_token_probabilities, stream

LOGITS = torch.tensor([[2.0, 1.0, 1.0, 0.0, -1.0]], dtype=torch.float64)


def support(logits: torch.Tensor, **settings: Any) -> list[int]:
    return next_token_probabilities(logits, **settings)[0].nonzero().flatten().tolist()


class Fixed(torch.nn.Module):
    """A model whose logits are the same whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.config = type("Config", (), {"block_size": 8, "vocab_size": logits.shape[-1]})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)


@pytest.mark.parametrize(
    ("k", "kept"), [(1, [0]), (2, [0, 1, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (99, [0, 1, 2, 3, 4])]
)
def test_top_k_keeps_the_k_largest_and_ties_with_the_last(k: int, kept: list[int]) -> None:
    assert support(LOGITS, top_k=k) == kept


def test_top_p_keeps_the_fewest_tokens_that_reach_p() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    assert support(logits, top_p=0.3) == [0]
    assert support(logits, top_p=0.51) == [0, 1]
    assert support(logits, top_p=0.76) in ([0, 1, 2], [0, 1, 3])
    assert support(logits, top_p=0.99) == [0, 1, 2, 3]
    assert support(logits, top_p=1.0) == [0, 1, 2, 3]
    assert support(logits, top_p=1e-9) == [0]


def test_a_token_with_which_the_others_reach_p_already_is_dropped() -> None:
    """Half and half with p = 0.5: one of them is enough."""
    logits = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    assert support(logits, top_p=0.5) in ([0], [1])
    assert support(logits, top_p=0.5 + 1e-12) == [0, 1]


def test_every_row_of_any_batch_is_treated_alone() -> None:
    logits = torch.randn(3, 5, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for settings in ({"top_k": 2}, {"top_p": 0.6}, {"temperature": 0.0}, {"temperature": 0.7}):
        out = next_token_probabilities(logits, **settings)
        for row, expected in zip(out.flatten(0, -2), logits.flatten(0, -2), strict=True):
            assert torch.equal(row, next_token_probabilities(expected, **settings)), settings


def test_by_default_every_token_keeps_its_probability() -> None:
    assert torch.allclose(next_token_probabilities(LOGITS), LOGITS.softmax(-1), rtol=1e-14)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    drawn = [
        generate(Fixed(LOGITS), ids, 9, generator=torch.Generator().manual_seed(0), **settings)
        for settings in ({}, {"temperature": 1.0, "top_k": None, "top_p": None})
    ]
    assert torch.equal(*drawn)
    sampling = Sampling(generator=torch.Generator().manual_seed(0))
    streamed = torch.cat(list(stream(Fixed(LOGITS), ids, 9, sampling)), dim=1)
    assert torch.equal(streamed, drawn[0][:, 1:])


def test_top_p_of_one_keeps_even_what_rounding_would_lose() -> None:
    logits = torch.tensor([[0.0, -40.0, -80.0]])
    assert support(logits, top_p=1.0) == [0, 1, 2]
    beyond = torch.tensor([[0.0, -40.0, -200.0]])  # the last one's probability is 0 in float32
    assert torch.equal(keep_top_p(beyond, 1.0), beyond)


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=9),
    st.floats(0.05, 0.999),
)
def test_top_p_reaches_p_and_no_kept_token_could_be_spared(values: list[float], p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    full = next_token_probabilities(logits)[0]
    kept = torch.tensor(support(logits, top_p=p))
    mass = float(full[kept].sum())
    assert mass >= p - 1e-12
    assert mass - float(full[kept].min()) <= p + 1e-12
    dropped = [i for i in range(len(values)) if i not in kept.tolist()]
    if dropped:
        assert float(full[dropped].max()) <= float(full[kept].min()) + 1e-15


def test_what_is_kept_is_renormalised_and_temperature_comes_first() -> None:
    out = next_token_probabilities(LOGITS, temperature=0.5, top_k=3)[0]
    expected = torch.tensor([4.0, 2.0, 2.0], dtype=torch.float64).exp()
    assert torch.allclose(out[:3], expected / expected.sum(), rtol=1e-14)
    assert out[3:].tolist() == [0.0, 0.0]


def test_temperature_zero_is_greedy_and_uses_no_random_number() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    ids = generate(Fixed(LOGITS), torch.zeros(2, 1, dtype=torch.int64), 5, temperature=0.0, generator=generator)
    assert ids[:, 1:].tolist() == [[0] * 5] * 2
    assert torch.equal(generator.get_state(), before)
    assert next_token_probabilities(LOGITS, temperature=0.0)[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    generator = torch.Generator().manual_seed(0)
    N = 20_000
    ids = torch.zeros(N, 1, dtype=torch.int64)
    drawn = generate(Fixed(LOGITS), ids, 1, temperature=1.3, top_k=4, generator=generator)[:, 1]
    expected = next_token_probabilities(LOGITS, temperature=1.3, top_k=4)[0]
    counts = drawn.bincount(minlength=5)
    assert counts[4] == 0
    for token in range(4):
        p = float(expected[token])
        assert abs(int(counts[token]) - N * p) < 5 * math.sqrt(N * p * (1 - p)), f"token {token}: {counts.tolist()}"


def test_the_rows_of_a_batch_do_not_share_their_tokens() -> None:
    ids = generate(Fixed(LOGITS), torch.zeros(64, 1, dtype=torch.int64), 1, generator=torch.Generator().manual_seed(0))
    assert len(set(ids[:, 1].tolist())) > 2


def test_the_stream_yields_what_generate_returns_one_token_at_a_time() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    pieces = list(stream(Fixed(LOGITS), ids, 6, Sampling(generator=torch.Generator().manual_seed(4))))
    assert [piece.shape for piece in pieces] == [(2, 1)] * 6
    whole = generate(Fixed(LOGITS), ids, 6, generator=torch.Generator().manual_seed(4))
    assert torch.equal(whole, torch.cat([ids, *pieces], dim=1))


def test_no_gradient_is_recorded() -> None:
    logits = LOGITS.clone().requires_grad_()
    for new in stream(Fixed(logits), torch.zeros(1, 1, dtype=torch.int64), 2, Sampling()):
        assert not new.requires_grad
        assert torch.is_grad_enabled(), "the stream switched the caller's gradients off"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1: give 0 (greedy) or more"),
        ({"temperature": math.nan}, "temperature nan: give 0 (greedy) or more"),
        ({"temperature": math.inf}, "temperature inf: give 0 (greedy) or more"),
        ({"top_k": 0}, "top-k 0: give 1 or more, or leave it out"),
        ({"top_k": -3}, "top-k -3: give 1 or more"),
        ({"top_p": 0.0}, "top-p 0.0: give a number above 0, at most 1"),
        ({"top_p": 1.01}, "top-p 1.01: give a number above 0, at most 1"),
        ({"top_p": math.nan}, "top-p nan: give a number above 0, at most 1"),
    ],
)
def test_impossible_settings_say_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    for new in (0, 1):  # also where nothing is drawn
        with pytest.raises(ValueError, match=re.escape(message)):
            generate(Fixed(LOGITS), torch.zeros(1, 1, dtype=torch.int64), new, **settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        next_token_probabilities(LOGITS, **settings)
