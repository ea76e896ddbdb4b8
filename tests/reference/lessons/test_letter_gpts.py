"""The letter models have the stated sizes, learn their texts, and speak as warm as they are asked to."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from reference.data.shakespeare import COPY_VARIABLE
from reference.lessons import letter_gpts
from reference.lessons.letter_gpts import (
    COURSES,
    SMALL,
    STATED,
    TEXT,
    Course,
    beginner,
    count_parameters,
    goes_on,
    learned,
    loss_on,
    next_shares,
    successors,
    train,
    triples,
)
from reference.sampling import next_token_probabilities
from tests.reference.lessons.conftest import SHAKESPEARE
from tests.reference.lessons.test_pages import assert_page_has_numbers


@pytest.fixture(scope="module")
def counts():
    """A still smaller model, which soon learns "comes before"."""
    return learned("counting", Course(SMALL, steps=60, rows=8, peak=2e-2))


def test_the_stated_models_have_their_parameters():
    model, _, tokens, kept_back = beginner("counting", STATED["counting"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_673_792
    assert (len(tokens), len(kept_back)) == (1521, 1521), "of the counting text nothing is kept back"
    assert {course.shape for name, course in STATED.items() if name != "counting"} == {TEXT}
    shape = (TEXT.block_size, TEXT.n_layer, TEXT.n_head, TEXT.n_embd, TEXT.dropout, TEXT.bias)
    assert shape == (128, 8, 8, 256, 0.1, False)
    # embeddings of 66 letters and 128 places, 8 blocks of 12 C^2 and two norms, the last norm
    C = 256
    assert count_parameters(TEXT) == 66 * C + 128 * C + 8 * (12 * C * C + 2 * C) + C == 6_345_472


@pytest.mark.slow
def test_it_learns_and_begins_at_knowing_nothing(counts):
    _, tokenizer, losses = counts
    assert losses[0] == pytest.approx(math.log(tokenizer.vocab_size), abs=0.15)
    assert sum(losses[-5:]) / 5 < 1.2, f"loss {losses[-5:]} after 60 batches"


def test_a_letter_that_the_text_lacks_is_unknown_and_no_mistake(counts):
    model, tokenizer, _ = counts
    assert tokenizer.decode(tokenizer.encode("Number é")) == "Number <UNK>"
    assert len(goes_on(model, tokenizer, "é", 5, 0.0)) >= 5


def test_at_temperature_0_the_dice_do_not_matter_and_warm_it_varies(counts):
    model, tokenizer, _ = counts
    cold, cool = goes_on(model, tokenizer, "Number ", 12, 0.0), goes_on(model, tokenizer, "Number ", 12, 1e-5)
    assert cold == cool
    assert goes_on(model, tokenizer, "Number ", 12, 50.0) != cold


def test_warmth_makes_all_letters_alike(counts):
    model, tokenizer, _ = counts
    shares = [next_shares(model, tokenizer, "Number ", t) for t in (*letter_gpts.TEMPERATURES, 1000.0)]
    largest = [float(share.max()) for share in shares]
    assert largest == sorted(largest, reverse=True)
    assert len(set(largest)) == 5
    assert largest[-1] == pytest.approx(1 / tokenizer.vocab_size, rel=0.05)
    with torch.no_grad():
        scores = model(torch.tensor([tokenizer.encode("Number ")]))[:, -1]
    torch.testing.assert_close(shares[1], next_token_probabilities(scores, 0.5)[0])


def test_without_a_copy_shakespeare_is_left_out(monkeypatch):
    monkeypatch.delenv(COPY_VARIABLE, raising=False)
    assert letter_gpts.texts() == ["counting", "stories", "code"]
    monkeypatch.setenv(COPY_VARIABLE, "somewhere")
    assert letter_gpts.texts() == ["counting", "stories", "code", "shakespeare"]


def test_a_stretch_may_begin_at_every_letter_of_the_text(monkeypatch):
    """Else what only the end of the text has, such as A3B3C3, would never stand at the beginning of a stretch."""
    model, _, tokens, _ = beginner("counting", Course(SMALL, 1, 8, 1e-2))
    seen = []

    class Recorded(letter_gpts.Batches):
        def __init__(self, tokens, *others, **named):
            super().__init__(tokens, *others, **named)
            seen.append((tokens, len(tokens) - self.block_size))

    monkeypatch.setattr(letter_gpts, "Batches", Recorded)
    list(train(model, tokens, Course(SMALL, 1, 8, 1e-2)))
    ((ring, starts),) = seen
    assert starts == len(tokens), "as many beginnings as letters"
    assert ring[: len(tokens)].tolist() == tokens.tolist()
    assert ring[len(tokens) :].tolist() == tokens[: SMALL.block_size].tolist()


def test_the_loss_on_a_text_is_without_dropout_and_leaves_the_model_learning():
    shape = Course(replace(SMALL, dropout=0.5), 1, 8, 1e-2)
    model, _, _, kept_back = beginner("counting", shape)
    assert loss_on(model, kept_back) == loss_on(model, kept_back)
    assert model.training


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--text", "poems"], "error: unknown text 'poems': choose one of counting, stories, code, shakespeare"),
        (["--steps", "0"], "error: --steps 0: give a whole number of at least 1"),
        (["--stated", "--steps", "-3"], "error: --steps -3: give a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_line(refused, arguments, line):
    assert refused("reference.lessons.letter_gpts", *arguments) == line


@pytest.fixture(scope="module")
def learned_once():
    """Each course is taken once, for its page and for the tests of what it teaches."""
    return cache(learned)


@pytest.mark.slow
def test_the_page_has_the_numbers_of_the_lesson(learned_once, monkeypatch, tmp_path):
    monkeypatch.setattr(letter_gpts, "learned", learned_once)
    assert_page_has_numbers("letter_gpts", tmp_path)


@pytest.mark.long
def test_the_lessons_model_knows_both_patterns_of_the_counting_text(learned_once):
    model, tokenizer, losses = learned_once("counting", COURSES["counting"])
    said = successors(model, tokenizer)
    wrong = {number: words for number, words in said.items() if words != str(number + 1)}
    assert [said[number] for number in (7, 12, 25)] == ["8", "13", "26"]
    assert len(wrong) <= 10, f"{len(wrong)} of 50 are wrong: {wrong}"
    thirds = {number: words for number, words in triples(model, tokenizer).items() if number < 10}
    assert thirds[3] == "C3"
    assert sum(words == f"C{number}" for number, words in thirds.items()) >= 8, thirds
    assert sum(losses[-20:]) / 20 < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, below, completions",
    [("stories", 0.5, {"The ca": "t"}), ("code", 0.3, {"for i in rang": "e(", "def ": "add(a, b):"})],
)
def test_it_goes_on_as_the_text_does(learned_once, name, below, completions):
    model, tokenizer, losses = learned_once(name, COURSES[name])
    assert {prompt: goes_on(model, tokenizer, prompt, len(goes), 0.0) for prompt, goes in completions.items()} == (
        completions
    )
    assert sum(losses[-20:]) / 20 < below


@pytest.mark.slow
def test_shakespeare_comes_below_its_bigrams(monkeypatch, shakespeare):
    monkeypatch.setenv(COPY_VARIABLE, str(SHAKESPEARE))
    _, tokenizer, losses = learned("shakespeare", replace(COURSES["shakespeare"], steps=500))
    assert tokenizer.vocab_size == 66
    assert sum(losses[-20:]) / 20 < 2.45, "what the table of pairs of lesson 2 ends with"
