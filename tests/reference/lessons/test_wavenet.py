"""The tree, the slid tree and torch's dilated convolution are one function; it is causal, and it learns."""

import pytest
import torch
from torch import nn

from reference.lessons import wavenet
from reference.lessons.names import ALPHABET, examples
from reference.lessons.wavenet import BLOCK, Flat, V, WaveNet


def randomised(seed=0, channels=5, hidden=7):
    """A model in float64, all of whose parameters are random."""
    dice = torch.Generator().manual_seed(seed)
    model = WaveNet(dice, channels, hidden)

    def draw(t):
        return torch.randn(t.shape, generator=dice, dtype=torch.float64)

    model.embedding, model.output, model.bias = draw(model.embedding), draw(model.output), draw(model.bias)
    for level in model.levels:
        level.weight, level.gain, level.shift = draw(level.weight), draw(level.gain), draw(level.shift)
    return model


def contexts_of(ids):
    """The context of each place of a text, filled up in front: (L,) -> (L, 8)."""
    padded = torch.cat([torch.zeros(BLOCK - 1, dtype=ids.dtype), ids])
    return padded.unfold(0, BLOCK, 1)


@pytest.mark.parametrize("letters", [1, 2, 7, 8, 9, 40])
def test_the_tree_slid_over_a_text_is_the_tree_at_every_place_and_torchs_convolution(letters):
    model = randomised(letters)
    ids = torch.randint(V, (letters,), generator=torch.Generator().manual_seed(1))
    one_by_one = model.tree(contexts_of(ids))
    for name, form in (("slid", model.slid), ("conv1d", model.convolved)):
        at_once = form(ids)
        assert at_once.shape == (letters, V)
        distance = float((at_once - one_by_one).abs().max())
        assert distance < 1e-12, f"{name}: largest difference {distance:.1e}"


def test_the_gradients_are_the_same_too():
    model = randomised()
    ids = torch.randint(V, (12,), generator=torch.Generator().manual_seed(1))
    parameters = [p.requires_grad_() for p in model.parameters()]
    wanted = torch.randn(12, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    forms = (model.tree(contexts_of(ids)), model.slid(ids), model.convolved(ids))
    first, *others = [torch.autograd.grad((form * wanted).sum(), parameters) for form in forms]
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_level_is_torchs_linear_norm_and_tanh():
    level = randomised().levels[0]
    linear, norm = nn.Linear(10, 7, bias=False, dtype=torch.float64), nn.LayerNorm(7, dtype=torch.float64)
    linear.weight.data, norm.weight.data, norm.bias.data = level.weight.T, level.gain, level.shift
    x = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(level(x), norm(linear(x)).tanh(), rtol=1e-12, atol=1e-12)


def test_each_level_halves_the_places():
    model = randomised()
    x = model.embedding[torch.zeros(2, BLOCK, dtype=torch.int64)]
    seen = []
    for level in model.levels:
        x = level(x.view(2, x.shape[1] // 2, -1))
        seen.append(x.shape[1])
    assert seen == [4, 2, 1]


def test_it_looks_back_eight_letters_and_not_ahead():
    model, ids = randomised(), torch.arange(1, 21)
    changed = ids.clone()
    changed[9] = 0
    moved = (model.slid(changed) - model.slid(ids)).abs().amax(dim=1) > 0
    assert moved.nonzero()[:, 0].tolist() == list(range(9, 17))


def test_dilated_by_less_it_would_see_fewer_letters():
    """Why d doubles: three levels of neighbours, d = 1 each, reach back four letters only."""
    model, ids = randomised(), torch.arange(1, 21)

    def undilated(ids):
        x = model.embedding[ids]
        for level in model.levels:
            x = level(torch.cat([x[:-1], x[1:]], dim=-1))
        return x

    changed = ids.clone()
    changed[9] = 0
    assert int(((undilated(changed) - undilated(ids)).abs().amax(dim=1) > 0).sum()) == 4


def test_the_merges_are_counted_as_they_happen():
    model = randomised()
    seen = []

    def counted(level):
        return lambda pair: seen.append(pair[..., 0].numel()) or level(pair)

    model.levels = [counted(level) for level in model.levels]
    ids = torch.arange(1, 14)
    model.tree(contexts_of(ids))
    trees, seen[:] = sum(seen), []
    model.slid(ids)
    assert (trees, sum(seen)) == wavenet.merges(13)


def test_a_context_of_another_length_is_refused():
    with pytest.raises(ValueError, match="contexts of 3 letters: give 8, filled up in front with the end"):
        randomised().tree(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["tree", "flat"])
def test_it_learns_names(kind):
    names = ["anna", "hannah", "johanna", "susanna"]
    dice = torch.Generator().manual_seed(0)
    model = WaveNet(dice, hidden=24) if kind == "tree" else Flat(dice, hidden=24)
    losses = list(wavenet.train(model, examples(names, BLOCK), 300, dice))
    assert sum(losses[:5]) / 5 > 2.0
    assert sum(losses[-20:]) / 20 < 0.4, f"{sum(losses[-20:]) / 20:.3f} after 300 steps"
    assert set("".join(wavenet.invent(model, dice) for _ in range(3))) <= set(ALPHABET[1:])
