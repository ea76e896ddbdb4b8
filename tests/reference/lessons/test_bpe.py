"""Byte-pair encoding equals counting again after each merge, has tiktoken's ids with GPT-2's merges, loses nothing."""

import json
import sys
import unicodedata
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from reference.data.corpora import load_text
from reference.data.gpt2_vocabulary import load_encoding
from reference.lessons import bpe
from reference.lessons.bpe import SPECIAL, Tokenizer, commonest, count_pairs, learn, merge, split, tokens_of
from reference.lessons.bpe_speed import library, speed

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
    """The lesson's tokenizer and tiktoken's; hypothesis takes no fixtures of its own per example."""
    return bpe.gpt2(), load_encoding()


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_the_cuts_are_those_of_tiktokens_pattern(text):
    assert split(text) == regex.findall(r50k_pat_str, text)
    assert "".join(split(text)) == text


@pytest.mark.slow
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
    """Count all pairs again after each merge."""
    pieces, learned = [list(piece.encode()) for piece in split(text)], []
    for new in range(256, 256 + merges):
        counts = sum((count_pairs(piece) for piece in pieces), start=count_pairs([]))
        if not counts:
            break
        learned.append(commonest(counts))
        pieces = [merge(piece, learned[-1], new) for piece in pieces]
    return learned, pieces


@pytest.mark.parametrize("name", ["nursery", "counting"])
def test_learning_is_counting_again_after_each_merge(name):
    text = load_text(name)
    plainly, pieces = learned_plainly(text, 60)
    learned = learn(text, 60)
    assert learned == plainly
    assert Tokenizer(tokens_of(learned)).encode(text) == [i for piece in pieces for i in piece]


@settings(max_examples=60, deadline=None)
@given(text=st.text("ab c", max_size=40), merges=st.integers(0, 12))
def test_learning_any_text_is_counting_again_and_loses_nothing(text, merges):
    learned = learn(text, merges)
    assert learned == learned_plainly(text, merges)[0]
    tokenizer = Tokenizer(tokens_of(learned))
    for other in (text, "a new text, with c and 한"):
        assert tokenizer.decode(tokenizer.encode(other)) == other


def test_no_token_reaches_over_a_cut():
    learned = learn("dog. dog! dog? dog. dog! " * 20, 50)
    assert {token for token in tokens_of(learned)[256:] if b"g" in token} == {b"dog", b" dog"}


@pytest.mark.slow
def test_a_text_comes_out_as_short_as_with_the_tokenizers_library():
    """Not token by token: of equally frequent pairs the library takes another one first."""
    pytest.importorskip("tokenizers")
    found = speed(rounds=1)
    assert (found["characters"], found["merges"]) == (60_000, 300)
    ours, theirs = found["tokens"]["lesson"], found["tokens"]["tokenizers"]
    assert abs(ours - theirs) <= 0.005 * theirs, f"{ours:,} tokens, by the library {theirs:,}"


def test_the_library_takes_one_of_the_commonest_pairs_too():
    """At each of its merges no other pair was more frequent, counted again: it is the same method."""
    pytest.importorskip("tokenizers")
    text = load_text("pydocs")[:2_000]
    letters = {letter: byte for byte, letter in byte_letters().items()}
    merges = [pair.split() for pair in merges_of(library(text, 40))]
    theirs = [tuple(bytes(letters[letter] for letter in part) for part in pair) for pair in merges]
    assert len(theirs) == 40
    pieces = [[bytes([byte]) for byte in piece.encode()] for piece in split(text)]
    for pair in theirs:
        counts = Counter(found for piece in pieces for found in pairwise(piece))
        assert counts[pair] == max(counts.values()), f"{pair} is not the commonest"
        pieces = [merge(piece, pair, b"".join(pair)) for piece in pieces]


def merges_of(tokenizer):
    """What a tokenizer of the library has learned, in order, in its letters for bytes."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]


def byte_letters():
    """The letter that GPT-2's file of merges has for each byte: itself if it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return {**{byte: chr(byte) for byte in seen}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def test_times_are_taken_in_turn_as_many_of_both():
    pytest.importorskip("tokenizers")
    found = speed(rounds=3, merges=5, characters=500)
    assert {name: len(seconds) for name, seconds in found["seconds"].items()} == {"lesson": 3, "tokenizers": 3}
    assert all(seconds > 0.0 for name in found["seconds"] for seconds in found["seconds"][name])


def test_without_the_library_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"^Hugging Face's tokenizers is not installed: run `pip install tokenizers`"):
        speed(rounds=1, merges=1, characters=50)
