"""Token files: three formats read as one sequence, one format written, damaged files refused by name."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.data.corpora import split
from reference.data.shards import TokenSequence, open_shard, open_tokens, write_shard

TOKENS = np.array([50256, 1, 2, 65535, 0, 7, 13], dtype=np.uint16)


def llmc_bytes(tokens, magic=20240520, version=1, count=None, byte_order="<"):
    """The format as llm.c's `dataloader.h` documents it, packed without numpy."""
    header = [magic, version, len(tokens) if count is None else count] + [0] * 253
    return struct.pack(f"{byte_order}256i{len(tokens)}H", *header, *tokens)


def write_llmc(path):
    path = path.with_suffix(".bin")
    path.write_bytes(llmc_bytes(TOKENS))
    return path


def write_raw(path):
    path = path.with_suffix(".bin")
    path.write_bytes(struct.pack(f"<{len(TOKENS)}H", *TOKENS))
    return path


def write_npy(path):
    path = path.with_suffix(".npy")
    np.save(path, TOKENS)
    return path


every_format = pytest.mark.parametrize("write", [write_llmc, write_raw, write_npy])


@every_format
def test_a_shard_gives_its_tokens_from_a_mapped_file(tmp_path, write):
    shard = open_shard(write(tmp_path / "shard"))
    assert isinstance(shard, np.memmap)
    assert shard.dtype == np.uint16
    assert shard.tolist() == TOKENS.tolist()
    assert not shard.flags.writeable


def test_a_written_shard_is_byte_for_byte_llmcs_format(tmp_path):
    path = tmp_path / "shard.bin"
    write_shard(path, TOKENS)
    assert path.read_bytes() == llmc_bytes(TOKENS)
    write_shard(path, [5, 6])  # a list, over an existing file
    assert open_shard(path).tolist() == [5, 6]
    assert [file.name for file in tmp_path.iterdir()] == ["shard.bin"]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=600))
def test_any_tokens_written_are_read_back(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("shards") / "shard.bin"
    write_shard(path, np.array(tokens))
    assert open_shard(path).tolist() == tokens


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([], r"a non-empty row of integers, not float64 of shape \(0,\)"),
        ([[1, 2]], r"not int64 of shape \(1, 2\)"),
        ([1.5], r"not float64 of shape \(1,\)"),
        ([1, 65536], "the token 65536 does not fit into 16 bits"),
        ([1, -1], "the token -1 does not fit into 16 bits"),
    ],
)
def test_only_a_row_of_16_bit_tokens_is_written(tmp_path, tokens, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "shard.bin", tokens)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_written_under_the_name_it_is_read_by(tmp_path):
    with pytest.raises(ValueError, match=r"called \*\.bin, not 'shard\.npy'"):
        write_shard(tmp_path / "shard.npy", TOKENS)


# Many shards as one


@given(
    lengths=st.lists(st.integers(0, 9), max_size=6),
    bounds=st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), max_size=3),
)
def test_slices_of_slices_across_shards_equal_those_of_one_array(lengths, bounds):
    whole = np.arange(sum(lengths), dtype=np.uint16)
    sequence = TokenSequence(np.split(whole, np.cumsum(lengths)[:-1]) if lengths else [])
    for start, stop in bounds:
        whole, sequence = whole[start:stop], sequence[start:stop]
        assert len(sequence) == len(whole)
        assert sequence.numpy().tolist() == whole.tolist()
    assert [sequence[i] for i in range(len(whole))] == whole.tolist()
    assert [sequence[-1 - i] for i in range(len(whole))] == whole[::-1].tolist()
    for outside in (len(whole), -len(whole) - 1):
        with pytest.raises(IndexError):
            sequence[outside]


def test_a_slice_inside_one_shard_is_a_view_of_the_file(tmp_path):
    write_shard(tmp_path / "0.bin", TOKENS)
    write_shard(tmp_path / "1.bin", TOKENS)
    sequence = open_tokens(tmp_path)
    assert np.shares_memory(sequence[1:5].numpy(), sequence[0:7].numpy())
    across = sequence[5:9].numpy()
    assert across.tolist() == [7, 13, 50256, 1]


def test_a_step_in_a_slice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sliced with step 1, not 2"):
        TokenSequence([TOKENS])[::2]


def test_a_sequence_is_divided_without_being_read():
    training, validation = split(TokenSequence([TOKENS, TOKENS]), 0.5)
    assert isinstance(training, TokenSequence)
    assert training.numpy().tolist() == validation.numpy().tolist() == TOKENS.tolist()


def test_a_folder_a_pattern_and_a_file_open_in_order_of_name(tmp_path):
    for token in (5, 0, 11, 3, 8, 1, 10, 6, 2, 9, 7, 4):  # a folder lists its files in no particular order
        write_shard(tmp_path / f"part_{token:02}.bin", [token])
    np.save(tmp_path / "part_12.npy", np.array([12], dtype=np.uint16))
    (tmp_path / "README.md").write_text("no tokens")
    assert open_tokens(tmp_path).numpy().tolist() == list(range(13))
    assert open_tokens(str(tmp_path / "part_*.bin")).numpy().tolist() == list(range(12))
    assert open_tokens(tmp_path / "part_[01]2.*").numpy().tolist() == [2, 12]
    assert open_tokens(tmp_path / "part_02.bin").numpy().tolist() == [2]


def test_a_folder_with_training_and_validation_shards_asks_for_a_pattern(tmp_path):
    write_shard(tmp_path / "fineweb_train_000001.bin", [1])
    write_shard(tmp_path / "fineweb_val_000000.bin", [2])
    with pytest.raises(ValueError, match=r"both training and validation shards: .*\*train\*"):
        open_tokens(tmp_path)
    assert open_tokens(tmp_path / "*val*").numpy().tolist() == [2]


# Damage


def npy_bytes(array, cut=0, extra=b""):
    def write(path):
        np.save(path, array)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - cut] + extra)

    return write


DAMAGED = {
    "wrong version": ("a.bin", llmc_bytes(TOKENS, version=2), "the header's version is 2, expected 1"),
    "wrong magic": (
        "a.bin",
        llmc_bytes(TOKENS, magic=20240521),
        "magic number is 20240521, expected 20240520",
    ),
    "32-bit tokens": ("a.bin", llmc_bytes(TOKENS, magic=20240801, version=7), "magic number is 20240801"),
    "last token missing": (
        "a.bin",
        llmc_bytes(TOKENS)[:-2],
        "promises 7 tokens, 1038 bytes in all, but the file has 1036",
    ),
    "half a token missing": ("a.bin", llmc_bytes(TOKENS)[:-1], "but the file has 1037"),
    "too long": ("a.bin", llmc_bytes(TOKENS) + b"\0\0", "promises 7 tokens, .* but the file has 1040"),
    "count too large": ("a.bin", llmc_bytes(TOKENS, count=8), "promises 8 tokens, 1040 bytes in all, but"),
    "count below zero": ("a.bin", llmc_bytes(TOKENS, count=-7), "promises -7 tokens, at least 1"),
    "no tokens": ("a.bin", llmc_bytes([]), "promises 0 tokens, at least 1"),
    "cut inside the header": (
        "a.bin",
        llmc_bytes(TOKENS)[:1000],
        "inside its header: it has 1000 bytes, a header 1024",
    ),
    "cut after the magic": ("a.bin", llmc_bytes(TOKENS)[:4], "inside its header: it has 4 bytes"),
    "raw, odd size": ("a.bin", b"\1\0\2", "has 3 bytes, which is no whole number of 16-bit tokens"),
    "raw, empty": ("a.bin", b"", "is empty"),
    "npy, empty file": ("a.npy", b"", r"is no complete \.npy file"),
    "npy, not one": ("a.npy", b"\1\0" * 100, r"is no complete \.npy file"),
    "npy, cut": ("a.npy", npy_bytes(TOKENS, cut=2), r"is no complete \.npy file of tokens: mmap length"),
    "npy, too long": (
        "a.npy",
        npy_bytes(TOKENS, extra=b"\0\0"),
        "promises 7 tokens, 142 bytes in all, but .* 144",
    ),
    "npy, no tokens": ("a.npy", npy_bytes(TOKENS[:0]), "is empty"),
    "npy, int64": (
        "a.npy",
        npy_bytes(TOKENS.astype(np.int64)),
        r"holds int64 of shape \(7,\), expected uint16",
    ),
    "npy, big-endian": (
        "a.npy",
        npy_bytes(TOKENS.astype(">u2")),
        r"holds >u2 of shape \(7,\), expected uint16",
    ),
    "npy, matrix": ("a.npy", npy_bytes(TOKENS[None]), r"holds uint16 of shape \(1, 7\)"),
    "npy, pickled": ("a.npy", npy_bytes(np.array([None])), r"is no complete \.npy file of tokens"),
    "other suffix": ("a.txt", b"text", r"is not a token file: the name ends in \.bin or \.npy"),
}


@pytest.mark.parametrize("name, content, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_shard_is_refused_with_its_name_and_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_tokens(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no token file '.*missing\*\.bin': give a file, a folder, or a pattern"):
        open_tokens(tmp_path / "missing*.bin")
    with pytest.raises(ValueError, match="has no token files"):
        open_tokens(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read the token file '.*gone\.bin': No such file"):
        open_shard(tmp_path / "gone.bin")
