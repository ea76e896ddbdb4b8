"""Byte-pair encoding learns as counting anew would, gives tiktoken's ids with GPT-2's merges, and loses nothing."""

import unicodedata
from functools import cache

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from reference.corpora import load_text
from reference.gpt2_vocabulary import load_encoding
from reference.lessons import bpe
from reference.lessons.bpe import SPECIAL, Tokenizer, commonest, count_pairs, learn, merge, split, tokens_of

AWKWARD = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n \n",
    " \n x",
    "a  b",
    "\t\ttab",
    "trailing   ",
    "\u00a0nbsp\u00a0 \u3000",
    "I'm you'll they've it's he'd we're I'M YOU'LL 's don''t",
    "'",
    "''''s",
    "123 4567 1,000.5 x1y2 ²½Ⅷ௧",
    "naïve café cafe\u0301 ß ſ",
    "한국어 日本語のテキスト",
    "مرحبا שלום हिन्दी ไทย",
    "🙂👩\u200d👩\u200d👧🏳️\u200d🌈",
    "\ufeffbom \x00\x01\x1f\x7f",
    "\u2028\u2029\x85\x1c\x1d\u200b",
    "_under_score_ a_b c_1 http://x.y/z?a=b#c",
    "def f(x):\n    return x\n",
    SPECIAL,
    f"a{SPECIAL}b",
    "<|endoftext",
    " SolidGoldMagikarp",
    "\U0010ffff",
    "a" * 500 + " " * 77 + "\n" * 9,
]

# Python's tables of characters and tiktoken's may be of different years: what neither knows yet is left out.
known = st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0x1FAFF)
texts = st.text(st.one_of(known, st.sampled_from(" \n\t'smtdrelv019aZé한.,_\u00a0\x1c\x85")), max_size=60)


@pytest.fixture
def ours():
    return both()[0]


@pytest.fixture
def theirs():
    return both()[1]


# ---- The toy ----


def test_aaabdaaabac_becomes_x_d_x_a_c():
    ids, said = list(b"aaabdaaabac"), []
    for new in (256, 257, 258):
        pair = commonest(count_pairs(ids))
        ids = merge(ids, pair, new)
        said.append((pair, len(ids)))
    assert said == [((97, 97), 9), ((97, 98), 7), ((256, 257), 5)]
    assert ids == [258, *b"d", 258, *b"ac"]
    assert learn("aaabdaaabac", 3) == [pair for pair, _ in said]


def test_a_run_is_merged_from_the_left_and_nothing_twice():
    assert merge([7] * 5, (7, 7), 9) == [9, 9, 7]
    assert merge([1, 2, 1, 2, 2], (1, 2), 9) == [9, 9, 2]
    assert merge([], (1, 2), 9) == []


@pytest.mark.parametrize("character, count", [("a", 1), ("é", 2), ("한", 3), ("🙂", 4)])
def test_utf8_has_one_to_four_bytes(character, count):
    tokenizer = Tokenizer(tokens_of([]))
    assert tokenizer.encode(character) == list(character.encode())
    assert len(tokenizer.encode(character)) == count


# ---- GPT-2's merges give tiktoken's ids ----


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_have_tiktokens_ids(ours, theirs, text):
    ids = ours.encode(text)
    assert ids == theirs.encode_ordinary(text)
    assert ours.encode(text, special=True) == theirs.encode(text, allowed_special="all")
    assert ours.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_any_text_has_tiktokens_ids(text):
    ours, theirs = both()
    assert ours.encode(text) == theirs.encode_ordinary(text)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 50256), max_size=20))
def test_any_ids_have_tiktokens_text(ids):
    ours, theirs = both()
    assert ours.decode(ids) == theirs.decode(ids)


@cache
def both():
    """The lesson's tokenizer and tiktoken's; hypothesis takes no fixtures that it would have to build anew."""
    return bpe.gpt2(), load_encoding()


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_the_cuts_are_those_of_tiktokens_pattern(text):
    assert split(text) == regex.findall(r50k_pat_str, text)
    assert "".join(split(text)) == text


def test_the_white_space_is_unicodes():
    spaces = regex.compile(r"\s")
    ours = bpe.re.compile(f"[{bpe.SPACES}]")
    everything = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) != "Cs"]
    assert [c for c in everything if ours.match(c)] == [c for c in everything if spaces.match(c)]


def test_a_manual_of_code_has_tiktokens_ids(ours, theirs):
    text = load_text("code") + load_text("stories") + load_text("nursery")
    assert ours.encode(text) == theirs.encode_ordinary(text)


def test_a_mark_is_a_token_only_on_demand(ours):
    assert ours.encode(SPECIAL) == [27, 91, 437, 1659, 5239, 91, 29]
    assert ours.encode(f"a{SPECIAL}{SPECIAL}b", special=True) == [64, 50256, 50256, 65]
    assert ours.decode([50256]) == SPECIAL


def test_half_a_character_is_the_replacement_sign(ours):
    assert ours.decode(ours.encode("🙂")[:1]) == "\ufffd"


@pytest.mark.parametrize("wrong", [50257, -1])
def test_an_unknown_id_is_refused(ours, wrong):
    with pytest.raises(ValueError, match=f"the id {wrong} is unknown: there are 0 to 50256|50255"):
        ours.decode([wrong])


# ---- Learning ----


def learned_plainly(text, merges):
    """Everything counted anew after each merge."""
    pieces, learned = [list(piece.encode()) for piece in split(text)], []
    for new in range(256, 256 + merges):
        counts = sum((count_pairs(piece) for piece in pieces), start=count_pairs([]))
        if not counts:
            break
        learned.append(commonest(counts))
        pieces = [merge(piece, learned[-1], new) for piece in pieces]
    return learned, pieces


@pytest.mark.parametrize("name", ["nursery", "counting"])
def test_learning_is_counting_anew_after_each_merge(name):
    text = load_text(name)
    plainly, pieces = learned_plainly(text, 60)
    learned = learn(text, 60)
    assert learned == plainly
    assert Tokenizer(tokens_of(learned)).encode(text) == [i for piece in pieces for i in piece]


@settings(max_examples=60, deadline=None)
@given(text=st.text("ab c", max_size=40), merges=st.integers(0, 12))
def test_learning_any_text_is_counting_anew_and_loses_nothing(text, merges):
    learned = learn(text, merges)
    assert learned == learned_plainly(text, merges)[0]
    tokenizer = Tokenizer(tokens_of(learned))
    for other in (text, "a new text, with c and 한"):
        assert tokenizer.decode(tokenizer.encode(other)) == other


def test_no_token_reaches_over_a_cut():
    learned = learn("dog. dog! dog? dog. dog! " * 20, 50)
    assert {token for token in tokens_of(learned)[256:] if b"g" in token} == {b"dog", b" dog"}


def library(text, merges, progress=False):
    """The same by Hugging Face's tokenizers, which is written in Rust: how many tokens it has, and what they are."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + merges,
        show_progress=progress,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator([text], trainer)
    return model


def test_a_text_comes_out_as_short_as_with_the_tokenizers_library():
    """Not token by token: of pairs that are as common, the library takes another one first."""
    text = load_text("pydocs")[:60_000]
    tokenizer = Tokenizer(tokens_of(learn(text, 300)))
    ours, theirs = len(tokenizer.encode(text)), len(library(text, 300).encode(text).ids)
    assert abs(ours - theirs) <= 0.005 * theirs, f"{ours:,} tokens, by the library {theirs:,}"


@pytest.mark.slow
@pytest.mark.benchmark(group="byte-pair encoding, 1,000 merges of Python's manual")
@pytest.mark.parametrize("by", ["the lesson", "tokenizers, in Rust"])
def test_the_speed_of_learning_against_the_tokenizers_library(benchmark, by):
    text = load_text("pydocs")
    train = learn if by == "the lesson" else library
    benchmark.pedantic(train, args=(text, 1000), rounds=3)
