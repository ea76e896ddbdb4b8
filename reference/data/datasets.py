"""Datasets: the tokens of a text, split into training and validation, with a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reference.data.corpora import CORPORA, load_text, split
from reference.data.shards import SUFFIXES, TokenSequence, open_tokens
from reference.data.tokenizers import Tokenizer, build_tokenizer

DEFAULT_TOKENIZER = "char"
SHARD_TOKENIZER = "gpt2"  # token files do not name their tokenizer; nearly all use GPT-2's
EDGE = 1_000_000  # tokens at each end that fingerprint and vocabulary check read


@dataclass(frozen=True)
class Dataset:
    """Training and validation tokens."""

    name: str
    tokenizer: Tokenizer
    train: Tensor | TokenSequence
    validation: Tensor | TokenSequence
    fingerprint: str  # equal for equal tokens


def load_dataset(corpus: str, tokenizer: Tokenizer | str | None = None) -> Dataset:
    """Read and tokenize a corpus, and hold out its last tenth for validation.

    Args:
        corpus: a name in CORPORA, a text file, or token shards (a .bin or .npy file, or a folder of them)
        tokenizer: a tokenizer, the name of one to build, or None for the default

    Raises ValueError for an unknown corpus or tokenizer, and for a text that the tokenizer cannot encode.
    """
    tokens: Tensor | TokenSequence
    if is_shards(corpus):
        tokens = open_tokens(corpus)
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = build_tokenizer(tokenizer or SHARD_TOKENIZER, text="")
        check_vocabulary(tokens, tokenizer, corpus)
    else:
        text = load_text(corpus)
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = build_tokenizer(tokenizer or DEFAULT_TOKENIZER, text)
        tokens = torch.tensor(tokenizer.encode(text), dtype=torch.int64)
    train, validation = split(tokens)
    return Dataset(corpus, tokenizer, train, validation, fingerprint(tokens))


def is_shards(corpus: str) -> bool:
    """Whether a corpus is token files, not text."""
    path = Path(corpus)
    return corpus not in CORPORA and (path.suffix in SUFFIXES or path.is_dir())


def check_vocabulary(tokens: TokenSequence, tokenizer: Tokenizer, corpus: str) -> None:
    """Raise a ValueError if the first or last million tokens have ids that the tokenizer lacks."""
    for part in (tokens[:EDGE], tokens[-EDGE:]):
        largest = int(part.numpy().max())
        if largest >= tokenizer.vocab_size:
            raise ValueError(
                f"the token files {corpus!r} have the id {largest}, the tokenizer {tokenizer.name} has the ids 0 to "
                f"{tokenizer.vocab_size - 1}: give the tokenizer they were made with by --tokenizer"
            )


def fingerprint(tokens: Tensor | TokenSequence) -> str:
    """The number of tokens and their SHA-256; of more than two million, of the first and last million."""
    digest = hashlib.sha256(str(len(tokens)).encode())
    for part in (tokens[:EDGE], tokens[max(EDGE, len(tokens) - EDGE) :]):
        digest.update(part.numpy().astype(np.int32).tobytes())
    return f"{len(tokens)}-{digest.hexdigest()}"


def take(tokens: Tensor | TokenSequence, windows: int | None, block_size: int) -> Tensor | TokenSequence:
    """The tokens of the first `windows` windows of `block_size`; None for all."""
    return tokens if windows is None else tokens[: windows * block_size + 1]
