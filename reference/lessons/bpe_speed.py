"""How long learning takes in lesson 8, and in Hugging Face's tokenizers, written in Rust: times in turn, as JSON.

python -m reference.lessons.bpe_speed
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from reference.data.corpora import load_text
from reference.lessons import command
from reference.lessons.bpe import Tokenizer, learn, tokens_of


def library(text: str, merges: int) -> Any:
    """The same learned by Hugging Face's tokenizers: a tokenizer of theirs. ValueError where that is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise ValueError("Hugging Face's tokenizers is not installed: run `pip install tokenizers`") from None
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + merges,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator([text], trainer)
    return model


def speed(rounds: int = 5, merges: int = 300, characters: int = 60_000) -> dict[str, Any]:
    """Seconds that both take to learn from Python's manual, in turn, and how many tokens each then cuts it into."""
    text = load_text("pydocs")[:characters]
    ours, theirs = Tokenizer(tokens_of(learn(text, merges))), library(text, merges)  # and warm
    seconds: dict[str, list[float]] = {"lesson": [], "tokenizers": []}
    for _ in range(rounds):
        for name, train in (("lesson", learn), ("tokenizers", library)):
            start = time.perf_counter()
            train(text, merges)
            seconds[name].append(time.perf_counter() - start)
    tokens = {"lesson": len(ours.encode(text)), "tokenizers": len(theirs.encode(text).ids)}
    return {"characters": len(text), "merges": merges, "seconds": seconds, "tokens": tokens}


def measured(_: object = None) -> dict[str, Any]:
    """`speed` in a process that has done nothing else, with one thread for the library: the lesson has no more."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    return speed()


if __name__ == "__main__":
    command.start("bpe_speed", __doc__, lambda: print(json.dumps(measured())))
