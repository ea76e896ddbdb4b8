"""Counting and learning give the same bigram model, and the printed numbers come out."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from reference.data.corpora import load_text
from reference.lessons import bigram
from reference.lessons.bigram import Bigram

# What the notebooks printed of tiny Shakespeare: its alphabet, and the first batch that seed 1337 draws.
SYMBOLS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
INPUTS = [
    [24, 43, 58, 5, 57, 1, 46, 43],
    [44, 53, 56, 1, 58, 46, 39, 58],
    [52, 58, 1, 58, 46, 39, 58, 1],
    [25, 17, 27, 10, 0, 21, 1, 54],
]
TARGETS = [
    [43, 58, 5, 57, 1, 46, 43, 39],
    [53, 56, 1, 58, 46, 39, 58, 1],
    [58, 1, 58, 46, 39, 58, 1, 46],
    [17, 27, 10, 0, 21, 1, 54, 39],
]


def first_nine_tenths(text):
    alphabet, ids = bigram.read(text)
    return alphabet, ids[: int(0.9 * len(ids))]


@pytest.fixture(scope="module")
def rhyme():
    alphabet, ids = bigram.read(load_text("nursery"))
    return len(alphabet), ids


def network_at(table):
    """The network with this table of logits, in its precision."""
    model = Bigram(len(table))
    model.table.data = table.clone()
    return model


def loss_on_text(model, ids):
    return model.loss(ids[None, :-1], ids[None, 1:])


# ---- The printed numbers ----


def test_characters_become_their_places_in_the_sorted_alphabet(shakespeare):
    alphabet, ids = bigram.read(shakespeare)
    assert len(ids) == 1_115_394
    assert alphabet == SYMBOLS
    assert [alphabet.index(c) for c in "hii there"] == [46, 47, 47, 1, 58, 46, 43, 56, 43]


def test_the_nine_tenths_and_the_tenth_begin_as_printed(shakespeare):
    _, ids = bigram.read(shakespeare)
    cut = int(0.9 * len(ids))
    assert ids[:10].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47]
    assert ids[cut : cut + 10].tolist() == [12, 0, 0, 19, 30, 17, 25, 21, 27, 10]


def test_seed_1337_draws_the_printed_batch(shakespeare):
    _, ids = first_nine_tenths(shakespeare)
    inputs, targets = bigram.random_batch(ids, 4, 8, torch.Generator().manual_seed(1337))
    assert inputs.tolist() == INPUTS
    assert targets.tolist() == TARGETS


def test_the_printed_batch_has_the_printed_loss_before_training():
    model = Bigram(65, torch.Generator().manual_seed(1337))
    loss = float(model.loss(torch.tensor(INPUTS), torch.tensor(TARGETS)).detach())
    assert loss == pytest.approx(4.8786, abs=5e-5), f"loss {loss:.6f}, printed: 4.8786"


def test_the_untrained_network_says_the_printed_nonsense():
    generator = torch.Generator().manual_seed(1337)
    model = Bigram(65, generator)
    said = bigram.generate(model.table.detach().softmax(dim=1), SYMBOLS.index("\n"), 100, generator)
    assert "".join(SYMBOLS[i] for i in said) == (
        "SKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3bLIgwevmyFJGUGp\nwnYWmnxKWWev-tDqXErVKLgJ"
    )


@pytest.mark.slow
def test_2000_steps_bring_the_whole_text_from_4_6_to_3_1(shakespeare):
    _, ids = first_nine_tenths(shakespeare)
    counts = bigram.count_pairs(ids, 65)
    generator = torch.Generator().manual_seed(1337)
    model = Bigram(65, generator)
    before = bigram.surprise(model.probabilities(), counts)
    losses = list(bigram.train(model, ids, 2000, generator))
    after = bigram.surprise(model.probabilities(), counts)
    assert len(losses) == 2000
    assert 4.55 < before < 4.85, f"loss {before:.4f} before training"
    assert 3.05 < after < 3.20, f"loss {after:.4f} after 2,000 steps, about 3.12 expected"


@pytest.mark.long
def test_training_ends_at_about_2_5_and_says_the_printed_text(shakespeare):
    """The printed losses are of single batches: 2.547 is that of step 43,000 of the run with seed 1337."""
    alphabet, ids = first_nine_tenths(shakespeare)
    counts = bigram.count_pairs(ids, 65)
    least = bigram.surprise(bigram.probabilities_from_counts(counts), counts)
    generator = torch.Generator().manual_seed(1337)
    model = Bigram(65, generator)
    bigram.generate(model.table.detach().softmax(dim=1), alphabet.index("\n"), 100, generator)
    whole, single = {}, {}
    for step, loss in enumerate(bigram.train(model, ids, 43_000, generator), start=1):
        if step in (10_000, 20_000, 43_000):
            whole[step], single[step] = bigram.surprise(model.probabilities(), counts), loss
    assert least == pytest.approx(2.4519, abs=1e-4)
    assert least < whole[43_000] < whole[20_000] < 2.457 < whole[10_000] < 2.475, f"{least:.4f} < {whole}"
    assert single[10_000] == pytest.approx(2.3824, abs=1e-3)
    assert single[43_000] == pytest.approx(2.5473523, abs=1e-4)
    # Before the text that is printed the notebook drew another one, of 100 letters.
    learned = model.table.detach().softmax(dim=1)
    bigram.generate(learned, 0, 100, generator)
    said = "".join(alphabet[i] for i in bigram.generate(learned, 0, 147, generator))
    assert said == (
        "ANoamery,\n\nPoove. f howendofld:\nBRCar wr uny fapou th len sthed chithuterist gin me.\n"
        "AReidy imut bearg, hendinsouto I ty,\nTIZAnghe ICHengouprearson"
    )


# ---- Counting ----


def test_every_pair_is_counted_once(rhyme):
    V, ids = rhyme
    counts = bigram.count_pairs(ids, V)
    by_hand = Counter(itertools.pairwise(ids.tolist()))
    assert {(a, b): int(counts[a, b]) for a in range(V) for b in range(V) if counts[a, b]} == dict(by_hand)
    assert int(counts.sum()) == len(ids) - 1


def test_probabilities_are_shares_of_smoothed_counts():
    counts = torch.tensor([[3, 1], [0, 4]])
    assert bigram.probabilities_from_counts(counts).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert bigram.probabilities_from_counts(counts, smoothing=1.0).tolist() == [[4 / 6, 2 / 6], [1 / 6, 5 / 6]]


def test_an_unseen_pair_is_infinitely_surprising_only_without_smoothing():
    counts, other = torch.tensor([[3, 1], [0, 4]]), torch.tensor([[0, 0], [1, 0]])
    assert bigram.surprise(bigram.probabilities_from_counts(counts), other) == math.inf
    assert bigram.surprise(bigram.probabilities_from_counts(counts, 1.0), other) == pytest.approx(math.log(6))


def test_a_model_is_least_surprised_by_the_text_that_it_counted(rhyme):
    V, ids = rhyme
    counts = bigram.count_pairs(ids, V)
    losses = [bigram.surprise(bigram.probabilities_from_counts(counts, s), counts) for s in (1e-9, 0.1, 1, 10, 1e9)]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(math.log(V)), "with endless smoothing nothing is known but the alphabet"


@pytest.mark.parametrize("smoothing", [-1.0, math.nan])
def test_invalid_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match=f"smoothing {smoothing}: give 0 or more"):
        bigram.probabilities_from_counts(torch.ones(2, 2, dtype=torch.int64), smoothing)


def test_a_character_that_nothing_follows_needs_smoothing():
    counts = bigram.count_pairs(torch.tensor([0, 0, 1]), 2)
    with pytest.raises(ValueError, match="nothing ever follows id 1: give a smoothing above 0"):
        bigram.probabilities_from_counts(counts)
    assert bigram.probabilities_from_counts(counts, 0.5)[1].tolist() == [0.5, 0.5]


# ---- The two are one ----


def test_the_network_at_log_counts_has_the_loss_of_the_counts_and_no_gradient(rhyme):
    V, ids = rhyme
    counts = bigram.count_pairs(ids, V)
    model = network_at(counts.double().log())  # -inf for a pair that the text does not have
    loss = loss_on_text(model, ids)
    loss.backward()
    expected = bigram.surprise(bigram.probabilities_from_counts(counts), counts)
    assert abs(float(loss.detach()) - expected) < 1e-12, f"network {float(loss.detach())}, counts {expected}"
    assert float(model.table.grad.abs().max()) < 1e-12, f"gradient {float(model.table.grad.abs().max()):.1e}"


def test_smoothing_is_a_text_in_which_every_pair_was_seen_more_often(rhyme):
    V, ids = rhyme
    smoothed = bigram.count_pairs(ids, V) + 2
    a, b = torch.cartesian_prod(torch.arange(V), torch.arange(V)).T
    pairs = torch.cat([torch.stack([ids[:-1], ids[1:]]), torch.stack([a, b]), torch.stack([a, b])], dim=1)
    model = network_at(smoothed.double().log())
    loss = model.loss(pairs[:1], pairs[1:])
    loss.backward()
    probabilities = bigram.probabilities_from_counts(bigram.count_pairs(ids, V), smoothing=2.0)
    assert float((model.probabilities() - probabilities).abs().max()) < 1e-12
    assert abs(float(loss.detach()) - bigram.surprise(probabilities, smoothed)) < 1e-12
    assert float(model.table.grad.abs().max()) < 1e-12, f"gradient {float(model.table.grad.abs().max()):.1e}"


def test_the_gradient_by_hand_is_that_of_autograd(rhyme):
    V, ids = rhyme
    model = Bigram(V, torch.Generator().manual_seed(0)).double()
    loss_on_text(model, ids).backward()
    by_hand = bigram.gradient_by_hand(model.table.detach(), bigram.count_pairs(ids, V))
    distance = float((by_hand - model.table.grad).norm() / model.table.grad.norm())
    assert distance < 1e-12, f"relative distance {distance:.1e}, allowed 1e-12"


def test_descent_ends_at_the_counts():
    ids = torch.randint(4, (500,), generator=torch.Generator().manual_seed(0))  # every pair occurs
    counts = bigram.count_pairs(ids, 4)
    model = Bigram(4, torch.Generator().manual_seed(1)).double()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(loss_on_text(model, ids), model.table)
        model.table.data -= 8.0 * gradient
    distance = float((model.probabilities() - bigram.probabilities_from_counts(counts)).abs().max())
    assert distance < 1e-9, f"probabilities {distance:.1e} away from the counted ones, allowed 1e-9"


@pytest.mark.slow
def test_training_on_random_batches_comes_near_the_counts(rhyme):
    V, ids = rhyme
    counts = bigram.count_pairs(ids, V)
    generator = torch.Generator().manual_seed(0)
    model = Bigram(V, generator)
    for _ in bigram.train(model, ids, 1000, generator, learning_rate=3e-2):
        pass
    loss = bigram.surprise(model.probabilities(), counts)
    least = bigram.surprise(bigram.probabilities_from_counts(counts), counts)
    assert least < loss < least + 0.03, f"loss {loss:.4f}, at least {least:.4f} is possible"


def test_the_loss_of_a_table_is_its_mean_over_the_text(rhyme):
    V, ids = rhyme
    model = Bigram(V, torch.Generator().manual_seed(0)).double()
    direct = float(loss_on_text(model, ids).detach())
    assert bigram.surprise(model.probabilities(), bigram.count_pairs(ids, V)) == pytest.approx(direct, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_is_torchs(scale):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(7, (3, 5), generator=generator)
    ours = (scale * torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    a, b = bigram.cross_entropy(ours, targets), F.cross_entropy(theirs.flatten(0, 1), targets.flatten())
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


# ---- Speaking, and the lesson as a person meets it ----


def test_what_is_generated_follows_the_table():
    probabilities = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    ids = bigram.generate(probabilities, 0, 4000, torch.Generator().manual_seed(0))
    assert len(ids) == 4000
    seen = bigram.probabilities_from_counts(bigram.count_pairs(torch.tensor([0, *ids]), 3))
    assert float((seen - probabilities).abs().max()) < 0.05, f"shares {seen.tolist()}"
    assert bool((seen[probabilities == 0.0] == 0.0).all()), "an impossible pair was said"


def test_the_same_dice_say_the_same():
    probabilities = torch.full((5, 5), 0.2)
    once, again, other = (bigram.generate(probabilities, 0, 50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert once == again != other


@pytest.mark.slow
def test_the_lesson_tells_what_it_does(capsys, tmp_path):
    bigram.main("nursery", steps=200, folder=tmp_path)
    said = capsys.readouterr().out
    for part in ("nursery: 546 characters", "is followed by", "After 200 steps", "The network says:"):
        assert part in said, f"{part!r} is not in what the lesson printed"


def test_an_unknown_corpus_is_one_line(refused):
    line = refused("reference.lessons.bigram", "shakespear")
    assert line.startswith("error: unknown corpus 'shakespear': neither a file nor one of pydocs,"), line


def test_a_text_that_is_too_short_is_one_line(refused, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("abc" * 33)
    line = refused("reference.lessons.bigram", str(path))
    assert line == f"error: {path} has 99 characters: give a text of at least 100 to learn from"
