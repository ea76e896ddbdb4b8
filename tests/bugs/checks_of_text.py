"""Checks of generation: the cache, the probabilities of tokens, the sampled tokens."""

from __future__ import annotations

from functools import cache as memory

import torch
from torch import Tensor

from optimized.generation import CachedGPT
from reference.sampling import next_token, next_token_probabilities
from tests.bugs import oracle
from tests.bugs.checks import CONFIG, LOGITS, H, Outcome, batch, check, count, near, sharp, worst
from tests.bugs.checks_of_training import rate
from tests.bugs.sides import Side

CHUNKS = ((13,), (1,) * 13, (4, 1, 5, 3), (1, 12), (12, 1))


@check("F", "cache", "are logits with a cache those without, in any pieces, with padding, and for a single row?")
@torch.no_grad()
def cache(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG).eval()
    ids = batch(seed)[0]
    outcomes = []
    for rows in (3, 1):
        expected = oracle.logits(sharp(seed), ids[:rows], H)
        for sizes in CHUNKS:
            cached = CachedGPT(model, rows)
            found = torch.cat([cached.extend(part) for part in ids[:rows].split(list(sizes), dim=1)], dim=1)
            outcomes.append(near(f"{rows} rows in pieces of {sizes}", found, expected, LOGITS))
    padding = torch.tensor([0, 3, 6])
    for sizes in CHUNKS:
        cached = CachedGPT(model, padding)
        found = torch.cat([cached.extend(part) for part in ids.split(list(sizes), dim=1)], dim=1)
        for row, lead in enumerate(padding.tolist()):
            expected = oracle.logits(sharp(seed), ids[row : row + 1, lead:], H)
            outcomes.append(
                near(f"padding of {lead} in pieces of {sizes}", found[row : row + 1, lead:], expected, LOGITS)
            )
    return worst(outcomes)


@check("S", "support", "which tokens may be drawn, in cases worked out by hand: ties, boundaries, temperature 0?")
def support(side: Side, seed: int) -> Outcome:
    """The seed reorders the tokens. Sums that meet p exactly are those of four equal tokens and one of none."""
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    unequal, equal = [8, 4, 2, 1, 1], [4, 4, 4, 4, 0]  # sixteenths
    cases = [  # probabilities, settings, how many of the largest may be drawn
        (unequal, {}, 5),
        (unequal, {"top_k": 2}, 2),
        (unequal, {"top_k": 4}, 5),  # a tie with the fourth stays
        ([4, 4, 4, 2, 2], {"top_k": 1}, 3),
        (unequal, {"top_k": 9}, 5),
        (unequal, {"top_p": 0.49}, 1),
        (unequal, {"top_p": 0.51}, 2),
        (unequal, {"top_p": 0.76}, 3),
        (unequal, {"top_p": 1e-30}, 1),
        (unequal, {"top_p": 1.0}, 5),
        (equal, {"top_p": 0.25}, 1),  # one reaches a quarter by itself
        (equal, {"top_p": 0.5}, 2),
        (equal, {"top_p": 0.51}, 3),
        (unequal, {"temperature": 0.0}, 1),
        (unequal, {"top_k": 2, "top_p": 0.6}, 1),  # top-k first: of what it leaves, 8 of 12 is more than 0.6
        (
            unequal,
            {"temperature": 0.5, "top_p": 0.7},
            1,
        ),  # temperature first: it squares, and 64 of 86 is more than 0.7
    ]
    outcomes = []
    for sixteenths, settings, many in cases:
        logits = (torch.tensor([sixteenths], dtype=torch.float64) / 16).log()
        found = next_token_probabilities(logits[:, order], **settings)[0] > 0.0  # type: ignore[arg-type]
        kept = [sixteenths[token] for token in order[found].tolist()]
        right = sorted(kept, reverse=True) == sorted(sixteenths, reverse=True)[:many]
        outcomes.append(count(f"cases, with {settings or 'nothing set'}", int(not right)))
        greedy = int(next_token(logits, 0.0, None, None, None))
        outcomes.append(count("greedy token", int(sixteenths[greedy] < max(sixteenths))))
    return worst(outcomes)


@memory
def expected_tokens(seed: int, temperature: float, top_k: int | None) -> Tensor:
    """Eight rows of one prompt, and as many tokens more as the block size, drawn by the oracle."""
    generator = torch.Generator().manual_seed(seed)
    ids = batch(seed, 1, 5)[0].expand(8, 5)
    return oracle.generated(
        sharp(seed), ids, CONFIG.block_size, H, temperature=temperature, top_k=top_k, generator=generator
    )


@check("S", "tokens", "are sampled and greedy tokens those that the oracle draws, beyond the block size too?")
def tokens(side: Side, seed: int) -> Outcome:
    """Eight rows of the same prompt: drawn one by one, they differ."""
    model = side.model(sharp(seed), CONFIG).eval()
    ids = batch(seed, 1, 5)[0].expand(8, 5)
    new = CONFIG.block_size
    outcomes = []
    for temperature, top_k in ((0.0, None), (3.0, None), (1.5, 4)):
        generator = torch.Generator().manual_seed(seed)
        found = side.generate(model, ids, new, temperature=temperature, top_k=top_k, generator=generator)
        wrong = int((found != expected_tokens(seed, temperature, top_k)).sum())
        outcomes.append(count(f"tokens at temperature {temperature:g}, top-k {top_k}", wrong))
        outcomes.append(count("tokens that do not exist", int((found >= CONFIG.vocab_size).sum())))
    return worst(outcomes)


@check("S", "text after a step", "does a model generate with the weights that it has now, and not with those before?")
def text_after_a_step(side: Side, seed: int) -> Outcome:
    """In float64 against the oracle; in bfloat16, where copies of the weights are kept, against a model of its own."""
    ids = batch(seed, 1, 7)[0]
    exact = side.model(sharp(seed), CONFIG).eval()
    single = {name: tensor.float() for name, tensor in sharp(seed).items()}
    coarse = side.plus("bf16")
    rounded = coarse.model(single, CONFIG, torch.float32).eval()
    steps = [(model, side.step(model, learning_rate=rate)) for model in (exact, rounded)]
    for model, step in steps:
        extended(model, ids)  # a text before
        step(*batch(seed))
        step(*batch(seed))
    expected = oracle.logits(exact.state_dict(), ids, H)
    again = coarse.model(rounded.state_dict(), CONFIG, torch.float32).eval()
    off = float((extended(rounded, ids) - extended(again, ids)).abs().max())
    return worst([near("logits", extended(exact, ids), expected, LOGITS), count("logits in bfloat16", 0, off)])


def extended(model: object, ids: Tensor) -> Tensor:
    """Logits with a cache, one token at a time."""
    cached = CachedGPT(model, len(ids))  # type: ignore[arg-type]
    return torch.cat([cached.extend(ids[:, t : t + 1]) for t in range(ids.shape[1])], dim=1)
