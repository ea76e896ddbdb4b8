"""The numbers about texts, tokens and batches in the notes from which this project grew."""

from pathlib import Path

import pytest
import torch

from reference import GPT, GPTConfig
from reference.data.corpora import load_text, split
from reference.data.tokenizers import build_tokenizer

SHAKESPEARE = Path(__file__).parents[4] / "shared" / "data" / "tinyshakespeare.txt"

# All 65 characters of tiny Shakespeare, as printed.
SYMBOLS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def shakespeare():
    if not SHAKESPEARE.exists():
        pytest.skip("needs tinyshakespeare.txt beside the repository, in ../shared/data")
    return load_text(SHAKESPEARE)


def first_batch(tokens, block_size, batch_size):
    """The first batch as nanoGPT draws it: from torch's global random state, not by (seed, step)."""
    starts = torch.randint(len(tokens) - block_size, (batch_size,))
    return (
        torch.stack([tokens[i : i + block_size] for i in starts]),
        torch.stack([tokens[i + 1 : i + 1 + block_size] for i in starts]),
    )


def test_hii_there_has_the_known_ids():
    tokenizer = build_tokenizer("char", SYMBOLS)
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode([46, 47, 47, 1, 58, 46, 43, 56, 43]) == "hii there"
    assert tokenizer.encode("hellooo") == [46, 43, 50, 50, 53, 53, 53]


def test_tiny_shakespeare_has_1115394_characters_of_65_kinds(shakespeare):
    assert len(shakespeare) == 1_115_394
    tokenizer = build_tokenizer("char", shakespeare)
    assert "".join(tokenizer.symbols) == SYMBOLS
    assert tokenizer.encode(shakespeare[:12]) == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43]
    training, validation = split(tokenizer.encode(shakespeare))
    assert (len(training), len(validation)) == (1_003_854, 111_540)


def test_the_first_batch_of_seed_1337_is_the_known_one(shakespeare):
    tokens = torch.tensor(build_tokenizer("char", shakespeare).encode(shakespeare))
    training, _ = split(tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1337)
        ids, targets = first_batch(training, block_size=8, batch_size=4)
    assert ids.tolist() == [
        [24, 43, 58, 5, 57, 1, 46, 43],
        [44, 53, 56, 1, 58, 46, 39, 58],
        [52, 58, 1, 58, 46, 39, 58, 1],
        [25, 17, 27, 10, 0, 21, 1, 54],
    ]
    assert targets[:, :-1].tolist() == ids[:, 1:].tolist()
    assert targets[:, -1].tolist() == [39, 1, 46, 39]


def test_the_nursery_rhyme_has_106_words_of_35_types_in_546_characters():
    text = load_text("nursery")
    tokenizer = build_tokenizer("word", text)
    assert len(text) == 546
    assert text.count("<END>") == 16
    assert len(tokenizer.encode(text)) == 106
    assert tokenizer.vocab_size == 35
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_counting_text_has_25_characters_and_its_model_2673792_parameters():
    tokenizer = build_tokenizer("char", load_text("counting"))
    assert tokenizer.vocab_size == 25
    assert tokenizer.decode(tokenizer.encode("Number 5")) == "Number 5"
    config = GPTConfig(
        block_size=64,
        vocab_size=tokenizer.vocab_size,
        n_layer=6,
        n_head=6,
        n_embd=192,
        dropout=0.1,
        bias=False,
    )
    with torch.device("meta"):
        model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_673_792


def test_an_unknown_character_becomes_the_symbol_after_the_last():
    tokenizer = build_tokenizer("char-unk", load_text("counting"))
    assert tokenizer.vocab_size == 26
    assert tokenizer.encode("Z5") == [25, tokenizer.symbols.index("5")]
    assert tokenizer.decode([25]) == "<UNK>"


def test_an_unknown_start_word_is_named_with_the_known_ones():
    tokenizer = build_tokenizer("word", load_text("nursery"))
    with pytest.raises(
        ValueError, match=r"outside the vocabulary: 'wolf'; known are '<END>', 'a', 'against', .*'white'"
    ):
        tokenizer.encode("wolf had a little lamb")
