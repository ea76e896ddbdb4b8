"""Mistakes that generators are known to make, as changes of a `Variant`, with what to do about each.

The words of a wrong choice are its value in variant.py.
"""

from __future__ import annotations

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
)
from bench.user_code.mistake import Mistake, choices, mistake, others

CROP = "logits = model(ids[:, -block_size:])"
APPEND = "ids = torch.cat([ids, new], dim=1) after each token"
LAST = "logits = model(ids)[:, -1]"
AGAIN = "beyond the block every token has a new position: compute the cache again from the last block_size tokens"
CACHED = "with a cache, a new token's position is the number of tokens before it"
BY_HAND = "position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0), attention_mask for every call, grown by a 1"
DIVIDE = "logits = logits / temperature, before top-k, top-p and the softmax"
ONCE = "draw from softmax(logits)"
TOP_K = "logits[logits < logits.topk(k).values[:, -1:]] = -inf"
TOP_P = "sort by probability, drop the tokens before which the sum has reached p"
ALL_END = "end where all rows have ended"
SEED = "leave seeding to the caller"
SEEDS = (0, 1, 42, 123, 1234, 1337, 2024, 2025)


# field of the variant: the argument without which a function cannot make the mistake
NEEDS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "stream": "generator",
    "padding": "padding",
    "end": "eos",
}

MISTAKES: tuple[Mistake, ...] = (
    # what the model sees
    *choices("context", CROP, Context.FIRST, Context.ONE_FEWER, Context.HALF),
    *choices("context", APPEND, Context.PROMPT, Context.NEW),
    *choices("context", "pass the cache on", Context.NEWEST),
    *choices("context", "read the new token", Context.TWICE),
    *choices("context", AGAIN, Context.SLIDING, Context.ROLLING),
    *choices("positions", CACHED, *others(Positions, Positions.ALL_LATE)),
    *choices("attends", "is_causal only for the prompt; a single new token needs no mask", Attends.FIRST),
    *choices("attends", "keys and values up to the newest token: cache[:, :, :length]", Attends.EMPTY),
    *choices("attends", "write keys and values of every call", Attends.UNWRITTEN),
    *choices("attends", "write keys and values to the cache before the attention", Attends.OLDER),
    *choices("positions", "positions begin at 0", Positions.ALL_LATE),
    mistake("the model is in train mode: dropout takes part", "model.eval()", dropout=True),
    *choices("padding", BY_HAND, *others(Padding)),
    # the logits and their distribution
    *choices("place", LAST, *others(Place)),
    *choices("temperature", DIVIDE, *others(Temperature)),
    *choices("second_softmax", ONCE, *others(SecondSoftmax)),
    *choices("top_k", TOP_K, *others(TopK, TopK.AFTER_TOP_P)),
    *choices("top_k", "top-k, then top-p", TopK.AFTER_TOP_P),
    *choices("top_p", TOP_P, *others(TopP, TopP.BEFORE_TOP_K)),
    *choices("top_p", "apply top-p to what top-k left", TopP.BEFORE_TOP_K),
    # the draw
    *choices("draw", "torch.multinomial", Draw.ARGMAX),
    mistake(
        "a token is drawn where the most probable one should be taken", "argmax at temperature 0", samples_greedy=True
    ),
    *choices("sharing", "draw the first token for each row, as the others", Sharing.FIRST_TOKEN),
    *choices("sharing", "torch.multinomial of (B, V)", Sharing.TOKENS),
    *choices("sharing", "take a token for each row", Sharing.ALL),
    *choices("sharing", "random numbers of shape (B, V)", Sharing.NUMBERS),
    *choices("stream", "torch.multinomial(..., generator=generator)", Stream.GLOBAL),
    mistake("random numbers are seeded again before every token", SEED, reseeds=True),
    *(mistake(f"it seeds torch with {seed} itself: every text is the same", SEED, own_seed=seed) for seed in SEEDS),
    # the result
    mistake("one token more than asked for", "range(max_new_tokens)", more=1),
    mistake("one token fewer than asked for", "range(max_new_tokens)", more=-1),
    mistake("the prompt counts as new tokens", "count the tokens that are appended", counts_prompt=True),
    mistake("the result has the prompt twice", "return ids, which begins with the prompt", repeats_prompt=True),
    *choices("end", ALL_END, *others(End)),
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


def possible(function: Function) -> tuple[Mistake, ...]:
    """The mistakes that a function with these arguments can make."""
    missing = {
        name
        for name, needed in NEEDS.items()
        if not (function.takes_padding if needed == "padding" else function.takes(needed))
    }
    return tuple(one for one in MISTAKES if not one.fields & missing)
