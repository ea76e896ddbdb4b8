"""Lesson 8: text into numbers, neither letters nor words: byte-pair encoding, from the bytes up to GPT-2's.

Letters make texts long; words are endless. Byte-pair encoding (Gage 1994; Sennrich et al. 2016,
https://arxiv.org/abs/1508.07909) begins with the 256 bytes, which can write anything, and gives the commonest pair
of neighbours a new number, again and again. Common words end as one token, rare ones as a few.

    bytes     UTF-8 writes each of Unicode's characters as 1 to 4 bytes; nothing is ever unknown
    split     first the text is cut: a word with the space before it, a number, signs, white space. No token
              reaches over a cut, or "dog." and "dog!" would be tokens of their own
    learn     count pairs, merge the commonest, count again
    encode    of all neighbours that were ever merged, merge those first that were learned first
    special   "<|endoftext|>" is no text but a mark between texts; it is a token only where one asks for it

Given GPT-2's 50,000 merges, `Tokenizer` gives the numbers that tiktoken gives, for any text. Learning takes several
times as long as in Hugging Face's tokenizers, which is written in Rust: `python -m reference.lessons.bpe_speed` takes
the times of both in turn, and `nox -s bench` shows their ratio.

    python -m reference.lessons.bpe
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from reference.data.corpora import load_text
from reference.data.gpt2_vocabulary import END_OF_TEXT, load_encoding
from reference.lessons import command, drawing

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # what Unicode calls white space
SPECIAL = "<|endoftext|>"

# ---- The idea, on a list of numbers ----


def count_pairs(ids: Sequence[int]) -> Counter[tuple[int, int]]:
    """How often each pair of neighbours occurs.

    >>> count_pairs([1, 2, 3, 1, 2])
    Counter({(1, 2): 2, (2, 3): 1, (3, 1): 1})
    """
    return Counter(pairwise(ids))


def merge(ids: Sequence[int], pair: tuple[int, int], new: int) -> list[int]:
    """Write `new` for each occurrence of the pair, from the left.

    >>> merge([1, 1, 1, 2, 1, 1], (1, 1), 9)
    [9, 1, 2, 9]
    """
    merged: list[int] = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new  # `new` is not pair[0], so what was just merged is not merged again
        else:
            merged.append(i)
    return merged


def commonest(counts: dict[tuple[int, int], int]) -> tuple[int, int]:
    """The pair that occurs most often; of several, the one with the smallest numbers."""
    return min(counts, key=lambda pair: (-counts[pair], pair))


# ---- Cutting ----


@cache
def gpt2_pattern() -> re.Pattern[str]:
    """GPT-2's cuts: 's 't 're 've 'm 'll 'd, words, numbers, other signs, white space.

    A single space goes with what follows it: of several, the last one. Python's `re` does not know Unicode's letters
    (L) and numbers (N) as such, so they are collected here.
    """
    kinds: dict[str, list[list[int]]] = {"L": [], "N": []}
    for point in range(sys.maxunicode + 1):
        ranges = kinds.get(unicodedata.category(chr(point))[0])
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        elif ranges is not None:
            ranges.append([point, point])
    letters, digits = ("".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in kinds[kind]) for kind in "LN")
    return re.compile(
        f"'(?:[sdmt]|ll|ve|re)| ?[{letters}]+| ?[{digits}]+| ?[^{SPACES}{letters}{digits}]+"
        f"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+"
    )


def split(text: str) -> list[str]:
    """The pieces of a text; tokens never cross their borders.

    >>> split("Hello  world, it's 2019")
    ['Hello', ' ', ' world', ',', ' it', "'s", ' 2019']
    """
    return gpt2_pattern().findall(text)


# ---- Learning ----


def learn(text: str, merges: int) -> list[tuple[int, int]]:
    """The pairs that are merged, in order; the first of them becomes 256. Fewer if nothing is left to merge.

    Each different piece is looked at once, with how often it occurs, and after a merge only those pieces are
    counted again that have the pair in them. The result is that of counting everything again each time.
    """
    words = [(list(piece.encode()), times) for piece, times in Counter(split(text)).items()]
    counts: dict[tuple[int, int], int] = defaultdict(int)
    where: dict[tuple[int, int], set[int]] = defaultdict(set)  # in which words a pair may be
    for place, (ids, times) in enumerate(words):
        for pair, often in count_pairs(ids).items():
            counts[pair] += often * times
            where[pair].add(place)
    learned: list[tuple[int, int]] = []
    while counts and len(learned) < merges:
        pair = commonest(counts)
        new = 256 + len(learned)
        learned.append(pair)
        for place in where.pop(pair):
            ids, times = words[place]
            after = merge(ids, pair, new)
            words[place] = (after, times)
            for gone, often in count_pairs(ids).items():
                counts[gone] -= often * times
                if counts[gone] == 0:
                    del counts[gone]
            for come, often in count_pairs(after).items():
                counts[come] += often * times
                where[come].add(place)
    return learned


def tokens_of(learned: Iterable[tuple[int, int]]) -> list[bytes]:
    """The bytes of each id: the 256 single bytes, then the merged pairs."""
    tokens = [bytes([i]) for i in range(256)]
    for a, b in learned:
        tokens.append(tokens[a] + tokens[b])
    return tokens


# ---- Encoding and decoding ----


class Tokenizer:
    """Text to numbers and back.

    Args:
        tokens: the bytes of each number; a smaller number was learned earlier
        special: marks that are not text, and their numbers
    """

    def __init__(self, tokens: Sequence[bytes], special: dict[str, int] | None = None) -> None:
        self.tokens = tokens
        self.number: dict[bytes, int] = {}
        for i, token in enumerate(tokens):
            self.number.setdefault(token, i)
        self.special = special or {}
        self.marks = {i: mark.encode() for mark, i in self.special.items()}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The numbers of a text. With `special` its marks are tokens, else they are text like any other."""
        if special and self.special:
            marks = "|".join(re.escape(mark) for mark in sorted(self.special, key=len, reverse=True))
            parts = re.split(f"({marks})", text)
            ids: list[int] = []
            for part in parts:
                ids += [self.special[part]] if part in self.special else self.encode(part)
            return ids
        return [i for piece in split(text) for i in self.merged(piece.encode())]

    def merged(self, piece: bytes) -> list[int]:
        """The numbers of one piece: again and again the neighbours that were learned first become one."""
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 1:
            pairs = [self.number.get(a + b, len(self.tokens)) for a, b in pairwise(parts)]
            first = min(pairs)
            if first == len(self.tokens):
                break
            i = pairs.index(first)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.number[part] for part in parts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some numbers. Half a character, which a model may well say, becomes the sign U+FFFD."""
        return b"".join(self.token(i) for i in ids).decode("utf-8", errors="replace")

    def token(self, i: int) -> bytes:
        """The bytes of one number; ValueError if there is none such."""
        if i in self.marks:
            return self.marks[i]
        if not 0 <= i < len(self.tokens):
            raise ValueError(f"the id {i} is unknown: there are 0 to {len(self.tokens) - 1}")
        return self.tokens[i]


def gpt2() -> Tokenizer:
    """GPT-2's tokens in this tokenizer. ValueError where its vocabulary cannot be had."""
    encoding = load_encoding()
    return Tokenizer([encoding.decode_single_token_bytes(i) for i in range(END_OF_TEXT)], {SPECIAL: END_OF_TEXT})


def cut(tokenizer: Tokenizer, text: str) -> str:
    """A text with a bar between tokens."""
    return "|".join(tokenizer.decode([i]) for i in tokenizer.encode(text))


def main(folder: Path = drawing.FOLDER, merges: int = 1000) -> None:
    """From characters to bytes to tokens, first a toy, then Python's manual, then GPT-2."""
    print("Characters are numbers already, but up to 1,114,111. UTF-8 writes them in bytes:")
    for character in "aé한🙂":
        print(f"    {character}  U+{ord(character):05X}  {character.encode().hex(' ')}")

    text = "aaabdaaabac"
    ids = list(text.encode())
    print(f"\n{text} is {len(ids)} bytes. The commonest pair becomes one, three times:")
    names = {ord(c): c for c in text}
    for new, name in zip((256, 257, 258), "ZYX", strict=True):
        pair = commonest(count_pairs(ids))
        ids, names[new] = merge(ids, pair, new), name
        print(f"    {name} = {names[pair[0]]}{names[pair[1]]}   {''.join(names[i] for i in ids)}")

    text = load_text("pydocs")
    learned = learn(text, merges)
    tokens = tokens_of(learned)
    pieces = len(set(split(text)))
    print(f"\nPython's own manual, {merges:,} merges. It depends on the version of Python; here:")
    print(f"    > {len(text.encode()):,} bytes, {pieces:,} different pieces")
    for name, chosen in (("first", tokens[256:266]), ("longest", sorted(tokens, key=len)[-6:])):
        print(f"    > {name}: {' '.join(repr(token.decode(errors='replace')) for token in chosen)}")

    rows = []
    rhyme = load_text("nursery")
    sizes = sorted({0, *(int(merges * share) for share in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1))})
    sample = text[:20_000]
    for size in sizes:
        tokenizer = Tokenizer(tokens[: 256 + size])
        for name, what in (("the manual", sample), ("a nursery rhyme", rhyme)):
            per_token = len(what.encode()) / len(tokenizer.encode(what))
            rows.append({"merges": size, "bytes per token": per_token, "of": name})
    own, theirs = Tokenizer(tokens), gpt2()
    sentence = "The interpreter's tokenizer splits unbelievably 1234567 tokens, doesn't it?"
    print("A sentence, cut by these merges and by GPT-2's 50,000:")
    print(f"    > {cut(own, sentence)}")
    print(f"    {cut(theirs, sentence)}")
    last = {row["of"]: row["bytes per token"] for row in rows}
    print("Bytes for each token, on average:")
    print(f"    the manual  {last['the manual']:.1f}, by GPT-2 {len(sample.encode()) / len(theirs.encode(sample)):.1f}")
    print(f"    a rhyme     {last['a nursery rhyme']:.1f}, by GPT-2 {len(rhyme) / len(theirs.encode(rhyme)):.1f}")
    print("The manual's merges are for the manual: what a tokenizer has not seen, it spells.")
    chart = drawing.curves(rows, "merges", "bytes per token", "of", "What merging saves", "learned from the manual")
    print(drawing.told(chart, folder / "bpe.png", "Bytes per token"))

    print("\nGPT-2's numbers, and what is awkward about them:")
    words = ("Hello, I'm a language model,", " language", "language", "LANGUAGE")
    for awkward in (*words, "9.11 > 9.9", "   x", "한국", SPECIAL):
        print(f"    {awkward!r:<31} {theirs.encode(awkward)}")
    print(f"    as a mark {SPECIAL!r:<21} {theirs.encode(SPECIAL, special=True)}")
    print("The space belongs to the word after it; numbers are cut anywhere; a mark is one only on demand.")


if __name__ == "__main__":
    command.start("bpe", __doc__, main)
