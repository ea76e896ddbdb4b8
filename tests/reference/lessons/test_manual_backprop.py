"""Every gradient by hand is autograd's, the forward pass is torch's, and learning by hand is learning."""

import math

import pytest
import torch
from torch.nn import functional as F

from reference.lessons import manual_backprop as by_hand
from reference.lessons.manual_backprop import V, backward, by_autograd, forward, parameters, short_backward

ALLOWED = 1e-12


def problem(B=32, seed=0, **sizes):
    dice = torch.Generator().manual_seed(seed)
    p = {name: parameter.double() for name, parameter in parameters(dice, **sizes).items()}
    return p, torch.randint(V, (B, sizes.get("block", 3)), generator=dice), torch.randint(V, (B,), generator=dice)


PROBLEMS = {
    "usual": {},
    "two examples": {"B": 2},
    "one letter of past": {"block": 1},
    "wide": {"B": 5, "width": 3, "hidden": 17},
}


@pytest.fixture(params=PROBLEMS)
def some(request):
    p, contexts, targets = problem(**PROBLEMS[request.param])
    return p, contexts, targets, forward(p, contexts, targets)


def test_the_forward_pass_is_torchs(some):
    p, contexts, targets, kept = some
    x = F.embedding(contexts, p["embedding"]).flatten(1)
    normal = F.batch_norm(x @ p["w1"] + p["b1"], None, None, p["gain"], p["shift"], training=True, eps=by_hand.EPS)
    logits = normal.tanh() @ p["w2"] + p["b2"]
    torch.testing.assert_close(kept["logits"], logits, rtol=ALLOWED, atol=ALLOWED)
    torch.testing.assert_close(kept["loss"], F.cross_entropy(logits, targets), rtol=ALLOWED, atol=ALLOWED)


def test_every_line_back_has_autograds_gradient(some):
    p, contexts, targets, kept = some
    ours, theirs = backward(p, contexts, targets, kept), by_autograd(p, contexts, targets)
    assert ours.keys() == theirs.keys(), "a number of the forward pass without its gradient"
    distances = {name: by_hand.relative(ours[name], theirs[name]) for name in theirs}
    wrong = {name: f"{distance:.1e}" for name, distance in distances.items() if not distance <= ALLOWED}
    assert wrong == {}, f"relative distances, allowed {ALLOWED:.0e}"
    assert all(ours[name].shape == theirs[name].shape for name in theirs)


def test_the_short_form_has_the_same_gradients(some):
    p, contexts, targets, kept = some
    ours, theirs = short_backward(p, contexts, targets, kept), by_autograd(p, contexts, targets)
    assert ours.keys() == p.keys()
    for name, gradient in ours.items():
        distance = by_hand.relative(gradient, theirs[name])
        assert distance <= ALLOWED, f"gradient of {name}: relative distance {distance:.1e}"


def test_a_letter_that_stands_twice_gets_both_slopes():
    p, _, _ = problem()
    contexts, targets = torch.full((4, 3), 5), torch.tensor([1, 2, 3, 4])
    contexts[1:, 0] = 7
    gradient = backward(p, contexts, targets, forward(p, contexts, targets))["embedding"]
    assert float(gradient[5].norm()) > 1e-6
    assert float(gradient[[i for i in range(V) if i not in (5, 7)]].abs().max()) == 0.0


def test_the_bias_before_a_norm_has_no_slope(some):
    p, contexts, targets, kept = some
    assert float(backward(p, contexts, targets, kept)["b1"].abs().max()) < 1e-14


def test_large_scores_do_not_overflow():
    p, contexts, targets = problem()
    p["b2"] = p["b2"] + 2000.0
    assert math.isfinite(float(forward(p, contexts, targets)["loss"]))


def test_steps_by_hand_are_torchs_steps():
    p, contexts, targets = problem(B=64)
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in p.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.1)
    dice = torch.Generator().manual_seed(3)
    for step in range(8):
        chosen = torch.randint(64, (32,), generator=dice)
        loss = forward(leaves, contexts[chosen], targets[chosen])["loss"]
        optimizer.param_groups[0]["lr"] = 0.1 if step < 6 else 0.01
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    by_hand.train(p, (contexts, targets), 8, torch.Generator().manual_seed(3))
    for name, parameter in p.items():
        assert by_hand.relative(parameter, leaves[name].detach()) < 1e-11, name


def test_it_learns_with_autograd_switched_off():
    p, contexts, _ = problem(B=300, hidden=32)
    targets = contexts[:, 1]  # say the middle letter again
    losses = by_hand.train(p, (contexts, targets), 600, torch.Generator().manual_seed(1))
    assert sum(losses[:20]) / 20 > 2.5
    assert sum(losses[-20:]) / 20 < 0.5, f"{sum(losses[-20:]) / 20:.3f} after 600 steps"
