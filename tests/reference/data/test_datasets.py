"""Datasets: tokens, split and fingerprint of a text."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reference.data.datasets import fingerprint, load_dataset, take
from reference.data.shards import write_shard
from reference.data.tokenizers import build_tokenizer


def test_the_last_tenth_of_a_text_is_held_back(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(chr(65 + n % 26) for n in range(1000)))
    data = load_dataset(str(tmp_path / "text.txt"))
    assert data.tokenizer.name == "char"
    assert len(data.train) == 900
    assert len(data.validation) == 100
    assert data.train[:30].numpy().tolist() == [n % 26 for n in range(30)]
    assert data.validation[:30].numpy().tolist() == [n % 26 for n in range(900, 930)]


def test_a_tokenizer_that_exists_is_used_and_not_built_again(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("baab" * 9)
    tokenizer = build_tokenizer("char", "abc")
    data = load_dataset(str(tmp_path / "text.txt"), tokenizer)
    assert data.tokenizer is tokenizer
    assert data.train[:4].numpy().tolist() == [1, 0, 0, 1]


def test_token_files_are_read_without_a_text_and_are_gpt2s_unless_said_otherwise(tmp_path: Path) -> None:
    tokens = np.arange(100, dtype=np.uint16)
    write_shard(tmp_path / "a.bin", tokens[:60])
    write_shard(tmp_path / "b.bin", tokens[60:])
    data = load_dataset(str(tmp_path))
    assert data.tokenizer.name == "gpt2"
    assert (len(data.train), len(data.validation)) == (90, 10)
    assert data.validation.numpy().tolist() == list(range(90, 100))
    assert load_dataset(str(tmp_path / "a.bin"), "byte").tokenizer.name == "byte"


def test_fingerprints_are_equal_for_equal_tokens_only(tmp_path: Path) -> None:
    tokens = torch.arange(2000) % 256
    write_shard(tmp_path / "same.bin", tokens.numpy())
    same = load_dataset(str(tmp_path / "same.bin"))
    assert same.fingerprint == fingerprint(tokens)
    for position in (0, 999, 1999):
        other = tokens.clone()
        other[position] += 1
        assert fingerprint(other) != fingerprint(tokens), f"token {position} is not looked at"
    assert fingerprint(tokens[:-1]) != fingerprint(tokens)
    long = torch.zeros(2_500_000, dtype=torch.int64)
    assert fingerprint(long) != fingerprint(long[:-1]), "the length is not looked at"
    changed = long.clone()
    changed[-1] = 1
    assert fingerprint(long) != fingerprint(changed)


def test_the_first_windows_are_whole_windows_with_their_targets() -> None:
    tokens = torch.arange(100)
    assert take(tokens, 3, 8).numpy().tolist() == list(range(25))
    assert take(tokens, 1000, 8).numpy().tolist() == list(range(100))
    assert take(tokens, None, 8) is tokens


def test_ids_beyond_the_vocabulary_are_found_at_both_ends(tmp_path: Path) -> None:
    for position in (0, 499):
        tokens = np.zeros(500, dtype=np.uint16)
        tokens[position] = 256
        write_shard(tmp_path / "bad.bin", tokens)
        with pytest.raises(ValueError, match="have the id 256, the tokenizer byte has the ids 0 to 255"):
            load_dataset(str(tmp_path / "bad.bin"), "byte")
