"""Training texts by name or path, and their split into training and validation. Token files: shards.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from reference.data import embedded_texts
from reference.data.shakespeare import shakespeare


@dataclass(frozen=True)
class Corpus:
    """A named text."""

    about: str  # one line for a help text
    read: Callable[[], str]


CORPORA = {
    "pydocs": Corpus("the help texts of the running Python, about 465,000 characters", embedded_texts.pydocs),
    "nursery": Corpus("Mary had a little lamb, 106 words", embedded_texts.nursery),
    "counting": Corpus("numbers and their successors, 1,521 characters", embedded_texts.counting),
    "stories": Corpus("130 very short stories", embedded_texts.stories),
    "code": Corpus("42 very short Python programs", embedded_texts.code),
    "shakespeare": Corpus("tiny Shakespeare, 1,115,394 characters, downloaded once", shakespeare),
}

DEFAULT = "pydocs"


def load_text(name_or_path: str | Path) -> str:
    """Return a corpus of CORPORA by name, else the text of the file at that path.

    A name wins over a file of the same name: write `./code` for the file. A file is read as UTF-8, with its line ends.

    Raises:
        ValueError: neither a name nor a file; or the file cannot be read, is empty or is not UTF-8.
    """
    corpus = CORPORA.get(str(name_or_path))
    return read_text_file(Path(name_or_path)) if corpus is None else corpus.read()


def read_text_file(path: Path) -> str:
    """Return the text of a UTF-8 file; ValueError with file and reason if it is unreadable, empty or not UTF-8."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"unknown corpus {str(path)!r}: neither a file nor one of {', '.join(CORPORA)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read the text file {str(path)!r}: {reason}") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the file {str(path)!r} is not UTF-8: byte {content[error.start]:#04x} at offset {error.start} "
            f"({error.reason}); convert it to UTF-8"
        ) from None
    if not text:
        raise ValueError(f"the file {str(path)!r} is empty: a text to train on is needed")
    return text


class _Sliceable(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Any: ...


Tokens = TypeVar("Tokens", bound=_Sliceable)


def split(tokens: Tokens, fraction: float = 0.9) -> tuple[Tokens, Tokens]:
    """Split a sequence into its first `fraction` (training) and the rest (validation).

    `Batches` checks that both are long enough for the block size.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the training fraction {fraction} is not between 0 and 1: 0.9 leaves a tenth to validate on")
    border = int(fraction * len(tokens))
    return tokens[:border], tokens[border:]
