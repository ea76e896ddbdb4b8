"""Mistakes that generators are known to make, as changes of a `Variant`, with what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from bench.text_generation.calling import Function
from bench.text_generation.variant import (
    Attends,
    Context,
    Draw,
    End,
    Padding,
    Place,
    Positions,
    SecondSoftmax,
    Sharing,
    Stream,
    Temperature,
    TopK,
    TopP,
    Variant,
)

CROP = "logits = model(ids[:, -block_size:])"
APPEND = "ids = torch.cat([ids, new], dim=1) after each token"
LAST = "logits = model(ids)[:, -1]"
AGAIN = "beyond the block every token has a new position: compute the cache again from the last block_size tokens"
CACHED = "with a cache, a new token's position is the number of tokens before it"
BY_HAND = "position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0), attention_mask for every call, grown by a 1"
DIVIDE = "logits = logits / temperature, before top-k, top-p and the softmax"
TOP_K = "logits[logits < logits.topk(k).values[:, -1:]] = -inf"
TOP_P = "sort by probability, drop the tokens before which the sum has reached p"
SEED = "leave seeding to the caller"
SEEDS = (0, 1, 42, 123, 1234, 1337, 2024, 2025)


@dataclass(frozen=True)
class Mistake:
    """A known mistake: the fields of `Variant` that it changes."""

    what: str
    remedy: str
    changes: tuple[tuple[str, Any], ...]
    needs: str = ""  # the argument without which it cannot be made

    @property
    def fields(self) -> set[str]:
        """The names of the fields."""
        return {name for name, _ in self.changes}


NEEDS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "stream": "generator",
    "padding": "padding",
    "end": "eos",
}


def mistake(what: str, remedy: str, **changes: Any) -> Mistake:
    """A mistake from keyword arguments."""
    (first, *_) = changes
    return Mistake(what, remedy, tuple(changes.items()), NEEDS.get(first, ""))


MISTAKES: tuple[Mistake, ...] = (
    # what the model sees
    mistake("a long text is cropped at the wrong end: the model sees its beginning", CROP, context=Context.FIRST),
    mistake("a long text is cropped to one token fewer than the block", CROP, context=Context.ONE_FEWER),
    mistake("the model sees half a block", CROP, context=Context.HALF),
    mistake("new tokens are not appended to what the model sees", APPEND, context=Context.PROMPT),
    mistake("after the first token the model sees new tokens alone, not the prompt", APPEND, context=Context.NEW),
    mistake(
        "the model sees the newest token alone: the cache is not passed on", "pass the cache on", context=Context.NEWEST
    ),
    mistake(
        "the prompt's last token is read twice: it is in the cache already", "read the new token", context=Context.TWICE
    ),
    mistake("beyond the block, the cache is kept and positions stay at the last", AGAIN, context=Context.SLIDING),
    mistake("beyond the block, the cache is kept and positions begin at 0 again", AGAIN, context=Context.ROLLING),
    mistake("with the cache, every new token has position 0", CACHED, positions=Positions.ZERO),
    mistake("with the cache, positions of new tokens do not count the prompt", CACHED, positions=Positions.STEP),
    mistake("with the cache, positions of new tokens are one too many", CACHED, positions=Positions.LATE),
    mistake("with the cache, positions of new tokens are one too few", CACHED, positions=Positions.EARLY),
    mistake("with the cache, every new token has the first one's position", CACHED, positions=Positions.STUCK),
    mistake(
        "with the cache, new tokens attend to the first token alone: is_causal with fewer queries than keys",
        "is_causal only for the prompt; a single new token needs no mask",
        attends=Attends.FIRST,
    ),
    mistake(
        "with the cache, new tokens attend to empty slots too",
        "keys and values up to the newest token: cache[:, :, :length]",
        attends=Attends.EMPTY,
    ),
    mistake(
        "new tokens are not written to the cache: its slots stay zero",
        "write keys and values of every call",
        attends=Attends.UNWRITTEN,
    ),
    mistake(
        "with the cache, new tokens do not attend to themselves",
        "write keys and values to the cache before the attention",
        attends=Attends.OLDER,
    ),
    mistake("positions begin at 1", "positions begin at 0", positions=Positions.ALL_LATE),
    mistake("the model is in train mode: dropout takes part", "model.eval()", dropout=True),
    # padding
    mistake("padding is neither masked nor left out of positions", BY_HAND, padding=Padding.IGNORED),
    mistake("positions count the padding", BY_HAND, padding=Padding.COUNTED),
    mistake("padding is not masked", BY_HAND, padding=Padding.SEEN),
    mistake("new tokens attend to the padding", BY_HAND, padding=Padding.SEEN_LATER),
    mistake("positions of new tokens count the padding", BY_HAND, padding=Padding.COUNTED_LATER),
    # the logits
    mistake("the logits are those of the position before the last", LAST, place=Place.BEFORE_LAST),
    mistake("the logits are those of the first position", LAST, place=Place.FIRST),
    mistake("the logits are those of the prompt's last position, for every token", LAST, place=Place.PROMPT_END),
    # the distribution
    mistake(
        "the temperature has no effect: it is ignored, or divides probabilities",
        DIVIDE,
        temperature=Temperature.NOTHING,
    ),
    mistake("the temperature multiplies", DIVIDE, temperature=Temperature.MULTIPLIES),
    mistake("the temperature divides twice", DIVIDE, temperature=Temperature.TWICE),
    mistake("the temperature comes after top-p", DIVIDE, temperature=Temperature.LAST),
    mistake(
        "the temperature divides probabilities, of which a second softmax is taken",
        DIVIDE,
        temperature=Temperature.PROBABILITIES,
    ),
    mistake(
        "softmax is taken twice: the logits are probabilities already",
        "draw from softmax(logits)",
        second_softmax=SecondSoftmax.BEFORE,
    ),
    mistake(
        "softmax is taken twice: of the distribution to draw from",
        "draw from softmax(logits)",
        second_softmax=SecondSoftmax.AFTER,
    ),
    mistake("top-k has no effect", TOP_K, top_k=TopK.NOTHING),
    mistake("top-k keeps k + 1 tokens", TOP_K, top_k=TopK.MORE),
    mistake("top-k keeps k - 1 tokens", TOP_K, top_k=TopK.FEWER),
    mistake("top-k drops the k-th token: <= in place of <", TOP_K, top_k=TopK.NOT_KTH),
    mistake("top-k keeps the smallest", TOP_K, top_k=TopK.SMALLEST),
    mistake("top-k sets other logits to 0, not to -inf", TOP_K, top_k=TopK.ZEROS),
    mistake("top-k takes the first row's limit for every row", TOP_K, top_k=TopK.FIRST_ROW),
    mistake("top-k drops tokens that tie with the k-th", TOP_K, top_k=TopK.NO_TIES),
    mistake("top-k comes after top-p", "top-k, then top-p", top_k=TopK.AFTER_TOP_P),
    mistake("top-k has no effect unless the temperature is 1", TOP_K, top_k=TopK.AT_TEMPERATURE_1),
    mistake("top-p has no effect", TOP_P, top_p=TopP.NOTHING),
    mistake("top-p drops the token that reaches p", TOP_P, top_p=TopP.SHORT),
    mistake("top-p keeps one token too many", TOP_P, top_p=TopP.MORE),
    mistake("top-p keeps tokens up to 1 - p", TOP_P, top_p=TopP.COMPLEMENT),
    mistake("top-p sums in the order of the vocabulary, not of probability", TOP_P, top_p=TopP.UNSORTED),
    mistake("top-p keeps the least probable tokens", TOP_P, top_p=TopP.LEAST),
    mistake("top-p sums probabilities from before top-k", "apply top-p to what top-k left", top_p=TopP.BEFORE_TOP_K),
    # the draw
    mistake("the most probable token is taken where one should be drawn", "torch.multinomial", draw=Draw.ARGMAX),
    mistake(
        "a token is drawn where the most probable one should be taken", "argmax at temperature 0", samples_greedy=True
    ),
    mistake(
        "all rows share their first drawn token",
        "draw the first token for each row, as the others",
        sharing=Sharing.FIRST_TOKEN,
    ),
    mistake("all rows get the first row's drawn tokens", "torch.multinomial of (B, V)", sharing=Sharing.TOKENS),
    mistake("all rows get the first row's tokens", "take a token for each row", sharing=Sharing.ALL),
    mistake("all rows share their random numbers", "random numbers of shape (B, V)", sharing=Sharing.NUMBERS),
    mistake(
        "the generator that was given is not used", "torch.multinomial(..., generator=generator)", stream=Stream.GLOBAL
    ),
    mistake("random numbers are seeded again before every token", SEED, reseeds=True),
    *(mistake(f"it seeds torch with {seed} itself: every text is the same", SEED, own_seed=seed) for seed in SEEDS),
    # the result
    mistake("one token more than asked for", "range(max_new_tokens)", more=1),
    mistake("one token fewer than asked for", "range(max_new_tokens)", more=-1),
    mistake("the prompt counts as new tokens", "count the tokens that are appended", counts_prompt=True),
    mistake("the result has the prompt twice", "return ids, which begins with the prompt", repeats_prompt=True),
    mistake("all rows end where one of them ends", "end where all rows have ended", end=End.ANY),
    mistake("all rows end where the first one ends", "end where all rows have ended", end=End.FIRST_ROW),
)


# seen, not tried
OUTSIDE = Mistake(
    "ids outside the vocabulary are generated: rows of a padded token table take part",
    "logits[..., :vocab_size] before drawing",
    changes=(),
)
RAISES = Mistake(
    "it raises at temperature 0, where the most probable token is to be taken",
    "logits.argmax(-1) where the temperature is 0: nothing is divided by it",
    changes=(),
)


def combined(mistakes: tuple[Mistake, ...], draw: Draw = Draw.MULTINOMIAL) -> Variant:
    """The readable generator with some mistakes, of different fields."""
    return replace(Variant(draw=draw), **dict(change for one in mistakes for change in one.changes))


def possible(function: Function) -> tuple[Mistake, ...]:
    """The mistakes that a function with these arguments can make."""
    return tuple(
        one
        for one in MISTAKES
        if not one.needs or function.takes(one.needs) or (one.needs == "padding" and function.takes_padding)
    )


def singles_and_pairs(mistakes: tuple[Mistake, ...]) -> Iterator[tuple[Mistake, ...]]:
    """Each mistake alone, then two at once where they change different fields."""
    yield from ((one,) for one in mistakes)
    yield from (pair for pair in combinations(mistakes, 2) if not pair[0].fields & pair[1].fields)
