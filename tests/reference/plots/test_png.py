"""PNGs that are packed again: the same pixels, fewer bytes, a text inside."""

from __future__ import annotations

import struct
import zlib

import pytest

from reference.plots.png import SIGNATURE, packed, text_of

HEADER = struct.pack(">IIBBBBB", 100, 50, 8, 0, 0, 0, 0)  # 100 x 50 pixels, 8 bits, grey
PIXELS = (b"\0" + bytes(range(100))) * 50  # each row begins with its filter


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def loose(*before: bytes) -> bytes:
    """A PNG that is not compressed, its pixels in two chunks."""
    pixels = zlib.compress(PIXELS, 0)
    pieces = [chunk(b"IDAT", pixels[:1000]), chunk(b"IDAT", pixels[1000:])]
    return b"".join([SIGNATURE, chunk(b"IHDR", HEADER), *before, *pieces, chunk(b"IEND", b"")])


def test_a_packed_picture_has_the_same_pixels_in_one_chunk_of_fewer_bytes() -> None:
    resolution = chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))
    found = packed(loose(resolution))
    assert len(found) < len(loose()) / 5
    start, end = SIGNATURE + chunk(b"IHDR", HEADER) + resolution, chunk(b"IEND", b"")
    assert found.startswith(start)
    assert found.endswith(end)
    data = found[len(start) : -len(end)]
    assert data == chunk(b"IDAT", data[8:-4]), "one piece with its checksum"
    assert zlib.decompress(data[8:-4]) == PIXELS


@pytest.mark.parametrize("text", ["", '{"mark": "line"}', "é" * 10_000])
def test_a_text_is_read_under_its_keyword_alone(text: str) -> None:
    found = packed(loose(), "vega-lite", text)
    assert text_of(found, "vega-lite") == text
    assert text_of(packed(found), "vega-lite") == text, "kept when packed again"
    assert text_of(found, "vega") is None
    assert text_of(loose(), "vega-lite") is None
