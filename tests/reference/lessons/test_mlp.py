"""The Bengio model is torch's modules, begins as it should, and learns."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference.lessons import mlp
from reference.lessons.mlp import MLP, V
from reference.lessons.names import ALPHABET, examples, load_names, split_names


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def names():
    return load_names()


# ---- The names ----


def test_the_names_are_2799_words_of_letters_and_none_begins_another(names):
    assert len(names) == len(set(names)) == 2799
    assert names[:4] == ["washington", "september", "june", "july"]
    assert all(set(name) <= set(ALPHABET[1:]) and 4 <= len(name) <= 10 for name in names)
    beginnings = sorted(names)
    assert [a for a, b in itertools.pairwise(beginnings) if b.startswith(a)] == []


def test_the_three_parts_share_no_name_and_lose_none(names):
    parts = split_names(names)
    assert [len(part) for part in parts] == [2239, 280, 280]
    assert sorted(name for part in parts for name in part) == sorted(names)


def test_diondre_is_eight_examples_each_with_one_letter_more():
    contexts, targets = examples(["diondre"], block=8)
    rows = ["".join(ALPHABET[i] for i in row) + " " + ALPHABET[j] for row, j in zip(contexts, targets, strict=True)]
    assert rows == [
        "........ d", ".......d i", "......di o", ".....dio n", "....dion d", "...diond r", "..diondr e", ".diondre .",
    ]  # fmt: skip


# ---- The model ----


def test_logits_and_gradients_are_those_of_torchs_modules():
    model = MLP(dice(), width=4, hidden=7)
    for parameter in model.parameters():  # biases too are random: zeros would hide their absence
        parameter.data = torch.randn(parameter.shape, generator=dice(1)).double()
    embed = nn.Embedding(V, 4, dtype=torch.float64)
    inner, outer = nn.Linear(12, 7, dtype=torch.float64), nn.Linear(7, V, dtype=torch.float64)
    theirs = [embed.weight, inner.weight, inner.bias, outer.weight, outer.bias]
    for parameter, ours in zip(theirs, model.parameters(), strict=True):
        parameter.data = turned(parameter, inner, outer, ours.data)
    contexts, targets = torch.randint(V, (5, 3), generator=dice(2)), torch.randint(V, (5,), generator=dice(3))
    a = model(contexts)
    b = outer(torch.tanh(inner(embed(contexts).flatten(1))))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(mlp.cross_entropy(a, targets), model.parameters())
    for mine, parameter, t in zip(ours, theirs, torch.autograd.grad(F.cross_entropy(b, targets), theirs), strict=True):
        torch.testing.assert_close(mine, turned(parameter, inner, outer, t), rtol=1e-11, atol=1e-11)


def turned(parameter, inner, outer, values):
    """torch keeps the weights of linear layers as (out, in), ours are (in, out)."""
    return values.T.clone() if parameter is inner.weight or parameter is outer.weight else values.clone()


def test_with_two_numbers_a_letter_and_100_neurons_it_has_3481_parameters():
    assert sum(p.numel() for p in MLP(dice(), width=2, hidden=100).parameters()) == 3481


@pytest.mark.slow
def test_32_examples_of_a_few_names_are_learned_by_heart_as_far_as_they_can_be():
    """As the notebook does with five names: 3,481 numbers for 32 examples; it ends near 0.2552."""
    contexts, targets = examples(["emma", "olivia", "ava", "isabella", "sophia"], block=3)
    assert len(targets) == 32
    model = MLP(dice(), width=2, hidden=100)
    for _ in mlp.train(model, contexts, targets, 1000, dice(), batch_size=256):
        pass
    # Each of the five begins otherwise: of the 32, the first letters cannot be known.
    least = 5 * math.log(5) / 32
    assert least == pytest.approx(0.2515, abs=1e-4)
    assert least < mlp.loss_on(model, (contexts, targets)) < 0.30


@pytest.mark.slow
def test_training_beats_knowing_the_letters_shares(names):
    training, validation, _ = (examples(part, block=3) for part in split_names(names))
    model = MLP(dice(), hidden=64)
    before = mlp.loss_on(model, validation)
    for _ in mlp.train(model, *training, 1500, dice()):
        pass
    shares = torch.bincount(training[1], minlength=V) / len(training[1])
    alone = float(-(shares * shares.log()).nansum())
    after = mlp.loss_on(model, validation)
    assert before == pytest.approx(math.log(V), abs=0.02)
    assert after < alone - 0.2, f"loss {after:.3f}; {alone:.3f} with no letter of past"


# ---- Beginnings ----


def test_weights_of_variance_1_saturate_tanh_and_kaimings_do_not(names):
    contexts, targets = examples(names[:300], block=3)
    bad, good = MLP(dice(), gain=None, output_scale=1.0), MLP(dice())
    assert mlp.saturated(bad.hidden(contexts)) > 0.6
    assert mlp.saturated(good.hidden(contexts)) < 0.3
    assert mlp.loss_on(bad, (contexts, targets)) > 15.0
    assert mlp.loss_on(good, (contexts, targets)) < math.log(V) + 0.02


def test_the_gain_for_tanh_is_torchs():
    assert nn.init.calculate_gain("tanh") == mlp.TANH_GAIN


def test_a_divided_sum_has_the_variance_of_its_parts():
    x, w = torch.randn(1000, 10, generator=dice()), torch.randn(10, 200, generator=dice(1))
    assert float((x @ w).var()) == pytest.approx(10.0, rel=0.2)
    assert float((x @ w / math.sqrt(10)).var()) == pytest.approx(1.0, rel=0.2)


def test_only_the_gain_for_tanh_keeps_six_layers_alive_both_ways():
    spread = {}
    for gain in (0.7, mlp.TANH_GAIN, 5.0):
        activations, gradients = mlp.through_layers(gain, 6, dice())
        spread[gain] = float(activations[-1].std()), float(gradients[0].std()), mlp.saturated(activations[-1])
    outputs, backward, flat = spread[mlp.TANH_GAIN]
    assert 0.6 < outputs < 0.75
    assert 0.7 < backward < 1.8
    assert flat < 0.1
    assert spread[0.7][0] < 0.1, "too small a gain: the outputs die out"
    assert spread[0.7][1] < 0.2, "too small a gain: the gradients die out"
    assert spread[5.0][2] > 0.5, "too large a gain: tanh is saturated"
    assert spread[5.0][1] > 8.0, "too large a gain: the gradients explode"


def test_the_slope_of_tanh_is_small_where_it_counts_as_saturated():
    x = torch.tensor([2.092, 2.093], dtype=torch.float64, requires_grad=True)  # tanh 0.97 lies between
    y = x.tanh()
    assert mlp.saturated(y.detach()) == 0.5
    y.sum().backward()
    assert bool((x.grad < 0.06).all())


def test_a_histogram_is_of_shares_of_all():
    rows = mlp.histogram(torch.tensor([-1.0, 0.0, 0.0, 1.0]), "k", "p", 1.0)
    assert [row["share"] for row in rows if row["share"]] == [0.25, 0.5, 0.25]
