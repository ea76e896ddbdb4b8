"""Read token files as one memory-mapped sequence, and write them.

Three formats, all with tokens as little-endian uint16:

- llm.c and modded-nanogpt `.bin`: a header of 256 int32 (20240520, 1, the number of tokens, zeros), then
  the tokens;
- nanoGPT `.bin`: only tokens;
- `.npy`: one-dimensional uint16.

The first four bytes distinguish the two kinds of `.bin`: read as tokens, llm.c's magic number is 55432 308, and 55432
is outside GPT-2's vocabulary.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 1024
SUFFIXES = (".bin", ".npy")

Shard = NDArray[np.uint16]


class TokenSequence:
    """Tokens of several arrays as one read-only sequence.

    A slice is again a TokenSequence and reads no token; `numpy()` reads its tokens.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = tuple(shards)
        self._ends = list(accumulate(len(shard) for shard in shards))
        self._range = range(self._ends[-1] if self._ends else 0)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> TokenSequence: ...
    def __getitem__(self, index: int | slice) -> int | TokenSequence:
        if not isinstance(index, slice):
            position = self._range[index]
            return int(self._between(position, position + 1)[0])
        part = self._range[index]
        if part.step != 1:
            raise ValueError(f"tokens on disk are sliced with step 1, not {part.step}")
        view = TokenSequence(())
        view._shards, view._ends, view._range = self._shards, self._ends, part
        return view

    def numpy(self) -> Shard:
        """Return the tokens, (len,): a view if they are all in one file, else a copy."""
        return self._between(self._range.start, self._range.stop)

    def _between(self, start: int, stop: int) -> Shard:
        """Return the tokens at positions start <= position < stop of all shards laid end to end."""
        pieces = []
        while start < stop:
            n = bisect_right(self._ends, start)  # the shard that holds position `start`
            end = min(stop, self._ends[n])
            begins = self._ends[n] - len(self._shards[n])
            pieces.append(self._shards[n][start - begins : end - begins])
            start = end
        if not pieces:
            return np.empty(0, dtype=np.uint16)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def open_tokens(where: str | Path) -> TokenSequence:
    """Open a token file, all token files of a folder, or all matches of a pattern, in order of name.

    Raises:
        ValueError: nothing there, a damaged file, or a folder that mixes training and validation shards.
    """
    path = Path(where)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not found:
            raise ValueError(f"the folder {str(where)!r} has no token files (*.bin or *.npy)")
        if any("train" in file.name for file in found) and any("val" in file.name for file in found):
            raise ValueError(
                f"the folder {str(where)!r} has both training and validation shards: "
                f"choose with a pattern such as {str(path / '*train*')!r}"
            )
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(match) for match in glob.glob(str(where)))
        if not found:
            raise ValueError(f"no token file {str(where)!r}: give a file, a folder, or a pattern that matches some")
    return TokenSequence([open_shard(file) for file in found])


def open_shard(path: Path) -> Shard:
    """Map one token file of any of the three formats into memory; ValueError if it is not sound."""
    try:
        size = path.stat().st_size
        if path.suffix == ".npy":
            return _open_npy(path, size)
        if path.suffix == ".bin":
            with path.open("rb") as file:
                header = np.frombuffer(file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\xff"), dtype="<i4")
            return _open_bin(path, size, header)
    except OSError as error:
        raise ValueError(f"cannot read the token file {str(path)!r}: {error.strerror}") from None
    raise ValueError(f"{str(path)!r} is not a token file: the name ends in {' or '.join(SUFFIXES)}")


def write_shard(path: Path, tokens: ArrayLike) -> None:
    """Write tokens, one-dimensional integers from 0 to 65535, as a `.bin` file in llm.c's format.

    The file appears whole or not at all.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"tokens to write are a non-empty row of integers, not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() > 65535:
        bad = array[(array < 0) | (array > 65535)][0]
        raise ValueError(f"the token {bad} does not fit into 16 bits: tokens on disk run from 0 to 65535")
    if path.suffix != ".bin":
        raise ValueError(f"a shard in llm.c's format is called *.bin, not {path.name!r}")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, array.size
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(header.tobytes())
            file.write(array.astype("<u2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_bin(path: Path, size: int, header: NDArray[np.int32]) -> Shard:
    magic, version, count = header[:3].tolist()
    if magic != MAGIC:
        # 253 zeros in a row are what a header has and a text never: a damaged magic number, or another format
        # of this family (Llama 3 shards of 32-bit tokens have 20240801).
        if not header[3:].any():
            raise ValueError(f"{str(path)!r}: the header's magic number is {magic}, expected {MAGIC}")
        return _open_raw(path, size)
    if size < HEADER_BYTES:
        raise ValueError(f"{str(path)!r} is cut off inside its header: it has {size} bytes, a header {HEADER_BYTES}")
    if version != VERSION:
        raise ValueError(f"{str(path)!r}: the header's version is {version}, expected {VERSION}")
    if count < 1:
        raise ValueError(f"{str(path)!r}: the header promises {count} tokens, at least 1 is needed")
    if size != HEADER_BYTES + 2 * count:
        raise ValueError(
            f"{str(path)!r}: the header promises {count} tokens, {HEADER_BYTES + 2 * count} bytes in all, "
            f"but the file has {size}: it is cut off or damaged, get it again"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def _open_raw(path: Path, size: int) -> Shard:
    if size == 0:
        raise ValueError(f"{str(path)!r} is empty: a token file holds at least one token")
    if size % 2:
        raise ValueError(f"{str(path)!r} has {size} bytes, which is no whole number of 16-bit tokens: it is cut off")
    return np.memmap(path, dtype="<u2", mode="r", shape=(size // 2,))


def _open_npy(path: Path, size: int) -> Shard:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} is no complete .npy file of tokens: {reason}") from None
    if array.dtype != np.dtype("<u2") or array.ndim != 1:
        raise ValueError(f"{str(path)!r} holds {array.dtype} of shape {array.shape}, expected uint16 of one dimension")
    if array.size == 0:
        raise ValueError(f"{str(path)!r} is empty: a token file holds at least one token")
    assert isinstance(array, np.memmap)
    if size != array.offset + array.nbytes:
        raise ValueError(
            f"{str(path)!r}: the header promises {array.size} tokens, {array.offset + array.nbytes} bytes in "
            f"all, but the file has {size}: it is damaged, get it again"
        )
    return array
