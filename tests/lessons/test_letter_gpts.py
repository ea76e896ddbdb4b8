"""The letter models have the stated sizes, learn their texts, and speak as warm as they are asked to."""

import math

import pytest
import torch

from reference.lessons import letter_gpts
from reference.lessons.letter_gpts import (
    SMALL,
    STATED,
    TEXT,
    count_parameters,
    goes_on,
    learned,
    next_shares,
    successors,
)
from reference.sampling import next_token_probabilities
from reference.shakespeare import COPY_VARIABLE
from tests.lessons.conftest import SHAKESPEARE


@pytest.fixture(scope="module")
def counts():
    """A smaller model yet, soon sure of "comes before"."""
    return learned("counting", SMALL, steps=60, peak=2e-2)


def test_the_stated_models_have_their_parameters():
    assert count_parameters(STATED["counting"]) == 2_673_792
    shape = (TEXT.block_size, TEXT.n_layer, TEXT.n_head, TEXT.n_embd, TEXT.dropout, TEXT.bias)
    assert shape == (128, 8, 8, 256, 0.1, False)
    # embeddings of 66 letters and 128 places, 8 blocks of 12 C^2 and two norms, the last norm
    C = 256
    assert count_parameters(TEXT) == 66 * C + 128 * C + 8 * (12 * C * C + 2 * C) + C == 6_345_472


def test_it_learns_and_begins_at_knowing_nothing(counts):
    _, tokenizer, losses = counts
    assert losses[0] == pytest.approx(math.log(tokenizer.vocab_size), abs=0.15)
    assert sum(losses[-5:]) / 5 < 1.2, f"loss {losses[-5:]} after 60 batches"


def test_a_letter_that_the_text_has_not_is_unknown_and_no_mistake(counts):
    model, tokenizer, _ = counts
    assert tokenizer.decode(tokenizer.encode("Number é")) == "Number <UNK>"
    assert len(goes_on(model, tokenizer, "é", 5, 0.0)) >= 5


def test_at_temperature_0_the_dice_do_not_matter_and_warm_it_varies(counts):
    model, tokenizer, _ = counts
    cold, cool = goes_on(model, tokenizer, "Number ", 12, 0.0), goes_on(model, tokenizer, "Number ", 12, 0.01)
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


@pytest.mark.slow
def test_the_lessons_model_knows_most_successors():
    model, tokenizer, losses = learned("counting", SMALL, steps=480, peak=2e-2)
    said = successors(model, tokenizer)
    wrong = {number: words for number, words in said.items() if words != str(number + 1)}
    assert [said[number] for number in (7, 12, 25)] == ["8", "13", "26"]
    assert len(wrong) <= 15, f"{len(wrong)} of 50 are wrong: {wrong}"
    assert sum(losses[-20:]) / 20 < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, prompt, goes, below",
    [("stories", "The ca", "t", 0.5), ("code", "for i in rang", "e(", 0.3), ("code", "def ", "add(a, b):", 0.3)],
)
def test_it_goes_on_as_the_text_does(name, prompt, goes, below):
    model, tokenizer, losses = learned(name, SMALL, steps=240, peak=8e-3)
    assert goes_on(model, tokenizer, prompt, len(goes), 0.0) == goes
    assert sum(losses[-20:]) / 20 < below


@pytest.mark.slow
def test_shakespeare_comes_below_its_bigrams(monkeypatch, shakespeare):
    monkeypatch.setenv(COPY_VARIABLE, str(SHAKESPEARE))
    _, tokenizer, losses = learned("shakespeare", SMALL, steps=500, peak=8e-3)
    assert tokenizer.vocab_size == 66
    assert sum(losses[-20:]) / 20 < 2.45, "what the table of pairs of lesson 2 ends with"


@pytest.mark.slow
def test_the_stated_sizes_run_too(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(COPY_VARIABLE, raising=False)
    threads = torch.get_num_threads()
    letter_gpts.main(tmp_path, steps=1, stated=True)
    torch.set_num_threads(threads)
    assert "after 2 batches" in capsys.readouterr().out
