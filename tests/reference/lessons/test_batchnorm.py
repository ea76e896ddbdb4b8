"""Both norms are torch's, their slopes by hand are torch's, and the bug of three dimensions shows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference.lessons import batchnorm
from reference.lessons.batchnorm import BatchNorm, DeepMLP, LayerNorm, batch_dimensions, norm_backward, normalise


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return 3.0 + 2.0 * torch.randn(*shape, generator=dice(seed), dtype=torch.float64)


def same(a, b, allowed=1e-12):
    torch.testing.assert_close(a, b, rtol=allowed, atol=allowed)


def randomised(norm, C):
    """Gain and shift that are not 1 and 0."""
    norm.gain, norm.shift = random(C, seed=8), random(C, seed=9)
    return norm


def torchs_batch_norm(norm, C):
    theirs = nn.BatchNorm1d(C, momentum=norm.momentum, dtype=torch.float64)
    theirs.weight.data, theirs.bias.data = norm.gain.clone(), norm.shift.clone()
    return theirs


@pytest.mark.parametrize("shape", [(2, 1), (32, 5), (7, 4, 6)])
def test_batch_norm_and_its_memory_are_torchs(shape):
    C = shape[-1]
    ours = randomised(BatchNorm(C, momentum=0.3), C)
    theirs = torchs_batch_norm(ours, C)
    for seed in range(3):
        x = random(*shape, seed=seed)
        channels_second = x.transpose(1, -1) if len(shape) == 3 else x  # torch wants (B, C, T)
        expected = theirs(channels_second)
        same(ours(x), expected.transpose(1, -1) if len(shape) == 3 else expected)
    same(ours.running_mean, theirs.running_mean)
    same(ours.running_var, theirs.running_var)
    theirs.eval()
    x = random(4, C, seed=5)
    same(ours.alone(x), theirs(x))


@pytest.mark.parametrize("shape", [(1, 4), (7, 4, 6)])
def test_layer_norm_is_torchs(shape):
    x, norm = random(*shape), randomised(LayerNorm(shape[-1]), shape[-1])
    same(norm(x), F.layer_norm(x, shape[-1:], norm.gain, norm.shift))


@pytest.mark.parametrize("shape", [(2, 3), (9, 5), (7, 4, 6)])
@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_the_gradients_by_hand_are_those_of_torchs_norms(shape, kind):
    C = shape[-1]
    x, gain, shift = (t.requires_grad_() for t in (random(*shape), random(C, seed=1), random(C, seed=2)))
    if kind == "batch":
        y = F.batch_norm(x.flatten(0, -2), None, None, gain, shift, training=True).view(shape)
        over = batch_dimensions(x)
    else:
        y, over = F.layer_norm(x, (C,), gain, shift), (-1,)
    d_y = random(*shape, seed=3)
    theirs = torch.autograd.grad(y, (x, gain, shift), d_y)
    ours = norm_backward(d_y, x.detach(), gain.detach(), over)
    for name, a, b in zip(("x", "gain", "shift"), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"gradient in {name}: {m}")


def test_a_shift_or_stretch_of_what_goes_in_has_no_slope():
    x, d_y = random(8, 5), random(8, 5, seed=1)
    d_x, _, _ = norm_backward(d_y, x, torch.ones(5, dtype=torch.float64), (0,))
    same(d_x.sum(0), torch.zeros(5, dtype=torch.float64), 1e-11)
    along = (d_x * (x - x.mean(0))).sum(0)  # the norm's EPS leaves a little of the stretch
    same(along, torch.zeros(5, dtype=torch.float64), 1e-4)


# ---- The bug of three dimensions ----


def test_three_dimensions_have_one_mean_for_each_channel_not_for_each_place():
    x = random(32, 4, 68)
    assert x.mean(batch_dimensions(x), keepdim=True).shape == (1, 1, 68)
    assert x.mean((0,), keepdim=True).shape == (1, 4, 68), "the bug: each place has statistics of its own"
    right, bug = normalise(x, batch_dimensions(x))[0], normalise(x, (0,))[0]
    same(right, normalise(x.flatten(0, 1), (0,))[0].view_as(x))
    assert float((right - bug).abs().max()) > 0.1, "the bug would go unnoticed"


def test_the_memory_of_a_batch_of_three_dimensions_is_one_number_for_each_channel():
    norm = BatchNorm(68)
    norm(random(32, 4, 68).float())
    assert norm.running_mean.shape == norm.running_var.shape == (68,)


def test_places_of_different_means_stay_different():
    """The bug removes the difference between the means of the first and the last letter."""
    x = random(64, 2, 3)
    x[:, 1] += 10.0
    y = BatchNorm(3)(x)
    assert float((y[:, 1] - y[:, 0]).mean()) > 1.0
    assert abs(float((normalise(x, (0,))[0][:, 1] - normalise(x, (0,))[0][:, 0]).mean())) < 1e-9


# ---- Company ----


def test_company_changes_a_batch_norm_and_neither_memory_nor_layer_norm():
    one, few, others = random(1, 5), random(6, 5, seed=1), random(6, 5, seed=2)
    for norm, changes in ((BatchNorm(5), True), (BatchNorm(5).alone, False), (LayerNorm(5), False)):
        a, b = norm(torch.cat([one, few]))[0], norm(torch.cat([one, others]))[0]
        assert (float((a - b).abs().max()) > 1e-3) == changes


def test_a_single_row_is_refused():
    with pytest.raises(ValueError, match="one row has no variance: give a batch of at least 2, or use `alone`"):
        BatchNorm(3)(torch.ones(1, 3))


# ---- What norms are for ----


@pytest.mark.parametrize("gain", [0.3, 5.0])
def test_with_a_norm_the_size_of_the_weights_does_not_matter_at_first(gain):
    contexts = torch.randint(27, (200, 3), generator=dice())
    scores = {}
    for size in (1.0, gain):
        for kind in (None, BatchNorm, LayerNorm):
            scores[kind, size] = DeepMLP(kind, size, dice())(contexts)
    assert float((scores[None, 1.0] - scores[None, gain]).norm() / scores[None, 1.0].norm()) > 0.5
    for kind in (BatchNorm, LayerNorm):
        assert float((scores[kind, 1.0] - scores[kind, gain]).norm() / scores[kind, 1.0].norm()) < 0.05


@pytest.mark.slow
def test_a_deep_network_with_small_weights_learns_only_with_a_norm():
    contexts = torch.randint(27, (400, 3), generator=dice())
    targets = contexts[:, 2]  # say again what was said last
    last = {}
    for kind in (None, BatchNorm, LayerNorm):
        losses = batchnorm.train(DeepMLP(kind, 0.1, dice()), (contexts, targets), 200, dice())
        last[kind] = sum(losses[-20:]) / 20
    assert last[None] > 3.2, f"{last}"
    assert max(last[BatchNorm], last[LayerNorm]) < 2.5, f"{last}"


def test_norms_have_gains_and_shifts_to_learn():
    count = sum(p.numel() for p in DeepMLP(LayerNorm, 1.0, dice()).parameters())
    assert count - sum(p.numel() for p in DeepMLP(None, 1.0, dice()).parameters()) == 5 * 2 * 100
