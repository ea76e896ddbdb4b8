"""Tokenizers: characters, words, bytes and GPT-2's byte-pair encoding, with one protocol.

`decode(encode(text)) == text`, with two exceptions: "char-unk" loses unknown characters, "word" loses the width of
white space.
"""

from __future__ import annotations

import codecs
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from reference.data import gpt2_vocabulary

if TYPE_CHECKING:
    import tiktoken

NAMES = ("char", "char-unk", "word", "byte", "gpt2")

UNKNOWN = "<UNK>"


class Tokenizer(Protocol):
    """The interface of all tokenizers."""

    @property
    def name(self) -> str:
        """One of NAMES."""

    @property
    def vocab_size(self) -> int:
        """The number of ids, which run from 0 to vocab_size - 1."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Raises ValueError for text that the vocabulary cannot express."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some ids. Raises ValueError for an id outside the vocabulary."""

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of ids as they come, each character as soon as it is complete.

        The pieces joined are `decode(ids)`: a character whose bytes span several ids is yielded at the last of them. To
        continue a prompt, put its ids first.
        """

    def to_json(self) -> dict[str, object]:
        """Return what `tokenizer_from_json` rebuilds this tokenizer from, of types that JSON knows."""


def build_tokenizer(name: str, text: str) -> Tokenizer:
    """Return the tokenizer called `name`; "char", "char-unk" and "word" take their vocabulary from `text`."""
    if name == "char":
        return CharacterTokenizer(sorted(set(text)))
    if name == "char-unk":
        return CharacterTokenizer(sorted(set(text)), unknown=True)
    if name == "word":
        return WordTokenizer(sorted(set(text.split())))
    if name == "byte":
        return ByteTokenizer()
    if name == "gpt2":
        return GPT2Tokenizer()
    raise ValueError(f"unknown tokenizer {name!r}: choose one of {', '.join(NAMES)}")


class CharacterTokenizer:
    """One id per character: its place among the characters of the vocabulary, sorted by code point.

    With `unknown`, one more id at the end stands for every other character and is written "<UNK>"; without, a
    character outside the vocabulary is an error.
    """

    def __init__(self, symbols: Sequence[str], unknown: bool = False) -> None:
        _check_vocabulary(symbols, "symbols")
        for symbol in symbols:
            if len(symbol) != 1:
                raise ValueError(f"symbols: {symbol!r} is not a single character")
        self.name = "char-unk" if unknown else "char"
        self.symbols = tuple(symbols)
        self.unknown_id = len(symbols) if unknown else None
        self.vocab_size = len(symbols) + unknown
        self._id_of = {symbol: i for i, symbol in enumerate(symbols)}

    def encode(self, text: str) -> list[int]:
        if self.unknown_id is not None:
            return [self._id_of.get(character, self.unknown_id) for character in text]
        try:
            return [self._id_of[character] for character in text]
        except KeyError:
            unknown = [character for character in dict.fromkeys(text) if character not in self._id_of]
        raise ValueError(
            f"the text has characters outside the vocabulary: {_listed(unknown, 10)}; known are "
            f"{_listed(self.symbols, 200)}; leave them out, or use the tokenizer char-unk"
        )

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        for i in _checked(ids, self.vocab_size):
            yield UNKNOWN if i == self.unknown_id else self.symbols[i]

    def to_json(self) -> dict[str, object]:
        # A list, not one string: two symbols side by side may be a surrogate pair, which JSON would fuse.
        return {"name": self.name, "symbols": list(self.symbols)}


class WordTokenizer:
    """One id per word, words being what white space separates; for a text as small as a nursery rhyme.

    Decoding puts single spaces between the words, so `decode(encode(text)) == " ".join(text.split())`.
    """

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        _check_vocabulary(words, "words")
        for word in words:
            if word.split() != [word]:
                raise ValueError(f"words: {word!r} is not one word without white space")
        self.words = tuple(words)
        self.vocab_size = len(words)
        self._id_of = {word: i for i, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        words = text.split()
        try:
            return [self._id_of[word] for word in words]
        except KeyError:
            unknown = [word for word in dict.fromkeys(words) if word not in self._id_of]
        raise ValueError(
            f"the text has words outside the vocabulary: {_listed(unknown, 10)}; known are "
            f"{_listed(self.words, 50)}; leave them out"
        )

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        for position, i in enumerate(_checked(ids, self.vocab_size)):
            yield self.words[i] if position == 0 else " " + self.words[i]

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "words": list(self.words)}


class ByteTokenizer:
    """One id per byte of the text's UTF-8 form; nothing is outside its vocabulary of 256.

    Ids that are not valid UTF-8, which a model may well produce, decode to U+FFFD.
    """

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(_checked(ids, self.vocab_size)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        return _characters(bytes([i]) for i in _checked(ids, self.vocab_size))

    def to_json(self) -> dict[str, object]:
        return {"name": self.name}


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding: 50,257 ids, the last of them the special token "<|endoftext|>".

    Ids that are not valid UTF-8 when put together decode to U+FFFD.
    """

    name = "gpt2"
    vocab_size = gpt2_vocabulary.VOCAB_SIZE
    end_of_text = gpt2_vocabulary.END_OF_TEXT

    def __init__(self, encoding: tiktoken.Encoding | None = None) -> None:
        self._encoding = gpt2_vocabulary.load_encoding() if encoding is None else encoding

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of a text.

        "<|endoftext|>" inside a text is ordinary text, seven ids, so that a text cannot end a document by mistake. With
        `allow_special` it is the single id 50256, which is Hugging Face's default.
        """
        _utf8(text)  # tiktoken would quietly turn a lone surrogate into U+FFFD
        if allow_special:
            return self._encoding.encode(text, allowed_special="all")
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self._pieces(ids)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        return _characters(self._pieces(ids))

    def to_json(self) -> dict[str, object]:
        return {"name": self.name}

    def _pieces(self, ids: Iterable[int]) -> Iterator[bytes]:
        return map(self._encoding.decode_single_token_bytes, _checked(ids, self.vocab_size))


def tokenizer_from_json(saved: Mapping[str, object]) -> Tokenizer:
    """Return the tokenizer that `to_json` described; ValueError, naming the entry, for anything else."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"a saved tokenizer is a JSON object, not {type(saved).__name__}")
    name = saved.get("name")
    if name not in NAMES:
        raise ValueError(f"saved tokenizer: name {name!r} is not one of {', '.join(NAMES)}")
    vocabulary_key = {"char": "symbols", "char-unk": "symbols", "word": "words"}.get(str(name))
    expected = {"name", vocabulary_key} - {None}
    for key in expected ^ set(saved):
        problem = "is missing" if key in expected else "is unknown"
        raise ValueError(f"saved tokenizer {name}: the entry {key!r} {problem}")
    if vocabulary_key is None:
        return build_tokenizer(str(name), text="")
    vocabulary = saved[vocabulary_key]
    if not isinstance(vocabulary, list) or not all(isinstance(entry, str) for entry in vocabulary):
        raise ValueError(f"saved tokenizer {name}: {vocabulary_key!r} is not a list of strings")
    if name == "word":
        return WordTokenizer(vocabulary)
    return CharacterTokenizer(vocabulary, unknown=name == "char-unk")


def _check_vocabulary(entries: Sequence[str], what: str) -> None:
    """Refuse an empty vocabulary, and one not strictly ascending: an id is a place in a sorted list."""
    if not entries:
        raise ValueError(f"the vocabulary has no {what}: it is built from a text, which must not be empty")
    for before, after in pairwise(entries):
        if before >= after:
            raise ValueError(f"{what}: {after!r} after {before!r} is not in ascending order without repeats")


def _checked(ids: Iterable[int], vocab_size: int) -> Iterator[int]:
    """Yield the ids as plain integers; ValueError for one that the vocabulary has not."""
    for given in ids:
        try:
            i = operator.index(given)  # also takes the integers of numpy and torch
        except TypeError:
            raise ValueError(f"the id {given!r} is not a whole number") from None
        if not 0 <= i < vocab_size:
            raise ValueError(f"the id {i} is outside the vocabulary: ids run from 0 to {vocab_size - 1}")
        yield i


def _utf8(text: str) -> bytes:
    """Return the UTF-8 form of a text; ValueError for a lone surrogate, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which UTF-8 cannot express: remove it"
        ) from None


def _characters(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield UTF-8 that arrives in pieces as text, each character as soon as its last byte is there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def _listed(entries: Sequence[str], limit: int) -> str:
    """Return entries for a message, quoted, at most `limit` of them: `'a', 'b' and 7 more`."""
    shown = ", ".join(map(repr, entries[:limit]))
    return shown if len(entries) <= limit else f"{shown} and {len(entries) - limit} more"
