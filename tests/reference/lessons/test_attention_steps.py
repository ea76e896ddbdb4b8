"""Each step of the way to attention gives the numbers of the one before it; the last gives torch's."""

import math

import pytest
import torch
from torch.nn import functional as F

from reference.lessons import attention_steps as steps

SHAPES = [(1, 1, 1), (2, 7, 3), (3, 16, 5)]  # B, T, C


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a, b, allowed=1e-12):
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    distance = float((a - b).abs().max())
    assert distance <= allowed, f"largest difference {distance:.2e}, allowed {allowed:.0e}"


# ---- The printed numbers ----


def test_averages_of_seed_1337_are_the_printed_ones():
    x = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(1337))
    given = [
        [0.1808, -0.0700],
        [-0.3596, -0.9152],
        [0.6258, 0.0255],
        [0.9545, 0.0643],
        [0.3612, 1.1679],
        [-1.3499, -0.5102],
        [0.2360, -0.2398],
        [-0.9211, 1.5433],
    ]
    averages = [
        [0.1808, -0.0700],
        [-0.0894, -0.4926],
        [0.1490, -0.3199],
        [0.3504, -0.2238],
        [0.3525, 0.0545],
        [0.0688, -0.0396],
        [0.0927, -0.0682],
        [-0.0341, 0.1332],
    ]
    assert_same(x[0], torch.tensor(given), allowed=6e-5)
    assert_same(steps.average_by_loops(x)[0], torch.tensor(averages), allowed=6e-5)


def test_averages_of_three_rows_are_the_printed_ones():
    x = torch.tensor([[[2.0, 7.0], [6.0, 4.0], [6.0, 5.0]]])
    expected = torch.tensor([[[2.0, 7.0], [4.0, 5.5], [4.6667, 5.3333]]])
    assert_same(steps.average_by_matrix(x), expected, allowed=6e-5)


def test_the_head_of_seed_1337_has_the_printed_shares():
    generator = torch.Generator().manual_seed(1337)
    x = torch.randn(4, 8, 32, generator=generator)
    w_key, w_query, w_value = steps.random_weights(32, 16, generator)
    shares = steps.head_shares(x, w_query, w_key)
    first = [
        [1.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.1574, 0.8426, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.2088, 0.1646, 0.6266, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.5792, 0.1187, 0.1889, 0.1131, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.0294, 0.1052, 0.0469, 0.0276, 0.7909, 0.0000, 0.0000, 0.0000],
        [0.0176, 0.2689, 0.0215, 0.0089, 0.6812, 0.0019, 0.0000, 0.0000],
        [0.1691, 0.4066, 0.0438, 0.0416, 0.1048, 0.2012, 0.0329, 0.0000],
        [0.0210, 0.0843, 0.0555, 0.2297, 0.0573, 0.0709, 0.2423, 0.2391],
    ]
    second = [
        [1.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.1687, 0.8313, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.2477, 0.0514, 0.7008, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.4410, 0.0957, 0.3747, 0.0887, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.0069, 0.0456, 0.0300, 0.7748, 0.1427, 0.0000, 0.0000, 0.0000],
    ]
    assert_same(shares[0], torch.tensor(first), allowed=6e-5)
    assert_same(shares[1, :5], torch.tensor(second), allowed=6e-5)
    assert steps.one_head(x, w_query, w_key, w_value).shape == (4, 8, 16)


def test_the_weights_are_drawn_like_those_of_linear_layers():
    torch.manual_seed(3)
    theirs = [torch.nn.Linear(12, 5, bias=False).weight.T for _ in range(3)]
    ours = steps.random_weights(12, 5, torch.Generator().manual_seed(3))
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b.detach(), allowed=1e-7)


# ---- Each form equals the one before it ----


@pytest.mark.parametrize("shape", SHAPES)
def test_loops_and_matrix_and_softmax_average_alike(shape):
    x = random(*shape)
    loops = steps.average_by_loops(x)
    assert_same(steps.average_by_matrix(x), loops)
    assert_same(steps.average_by_softmax(x), loops)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_head_without_queries_averages_the_values(shape):
    x, C = random(*shape), shape[2]
    w_key, w_value = random(C, 4, seed=1), random(C, 4, seed=2)
    averages = steps.average_by_softmax(x @ w_value)
    assert_same(steps.one_head(x, torch.zeros(C, 4, dtype=torch.float64), w_key, w_value), averages)


@pytest.mark.parametrize("D", [1, 4, 9])
def test_scaling_is_the_same_as_shorter_queries(D):
    x, w_query, w_key, w_value = random(2, 7, 6), random(6, D, seed=1), random(6, D, seed=2), random(6, D, seed=3)
    scaled = steps.one_head(x, w_query, w_key, w_value, scaled=True)
    assert_same(scaled, steps.one_head(x, w_query / math.sqrt(D), w_key, w_value, scaled=False))


@pytest.mark.parametrize("shape", SHAPES)
def test_one_of_many_heads_is_one_head(shape):
    x, C = random(*shape), shape[2]
    w_query, w_key, w_value = random(3, 1, C, 4, seed=1)
    alone = steps.one_head(x, w_query[0], w_key[0], w_value[0], scaled=True)
    assert_same(steps.heads_by_loop(x, w_query, w_key, w_value), alone)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("H, D", [(1, 4), (2, 3), (3, 2), (5, 1)])
def test_heads_at_once_are_the_heads_one_by_one(shape, H, D):
    x, (w_query, w_key, w_value) = random(*shape), random(3, H, shape[2], D, seed=1)
    one_by_one = steps.heads_by_loop(x, w_query, w_key, w_value)
    assert one_by_one.shape == (*shape[:2], H * D)
    assert_same(steps.heads_at_once(x, w_query, w_key, w_value), one_by_one)


# ---- The last equals torch's ----


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("H, D", [(1, 4), (2, 3), (3, 2)])
def test_heads_at_once_are_torchs_attention_with_its_gradients(shape, H, D):
    def torchs(x, w_query, w_key, w_value):
        q, k, v = (torch.einsum("btc,hcd->bhtd", x, w) for w in (w_query, w_key, w_value))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    inputs = [random(*shape), *random(3, H, shape[2], D, seed=1)]
    results = []
    for form in (steps.heads_at_once, torchs):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        result = form(*leaves)
        result.backward(random(*result.shape, seed=2))
        results.append([result.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("causal", [True, False], ids=["decoder", "encoder"])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "unscaled"])
def test_one_head_is_torchs_attention_with_and_without_mask_and_scale(causal, scaled):
    x, w_query, w_key, w_value = random(2, 7, 6), random(6, 4, seed=1), random(6, 4, seed=2), random(6, 4, seed=3)
    theirs = F.scaled_dot_product_attention(
        x @ w_query, x @ w_key, x @ w_value, is_causal=causal, scale=None if scaled else 1.0
    )
    assert_same(steps.one_head(x, w_query, w_key, w_value, causal=causal, scaled=scaled), theirs)


def test_cross_attention_is_torchs():
    x, other = random(2, 7, 6), random(2, 5, 6, seed=4)
    w_query, w_key, w_value = random(3, 6, 4, seed=1)
    theirs = F.scaled_dot_product_attention(x @ w_query, other @ w_key, other @ w_value)
    ours = steps.one_head(x, w_query, w_key, w_value, causal=False, scaled=True, seen=other)
    assert_same(ours, theirs)
    assert steps.head_shares(x, w_query, w_key, causal=False, seen=other).shape == (2, 7, 5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_is_torchs(scale):
    scores = scale * random(3, 5)
    scores[0, 1:] = -math.inf
    assert_same(steps.softmax(scores), scores.softmax(dim=-1))
    assert steps.softmax(scores)[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


# ---- What the steps are for ----


def test_no_form_sees_the_future():
    x, weights = random(1, 8, 6), random(3, 2, 6, 3, seed=1)
    forms = {
        "average_by_loops": steps.average_by_loops,
        "average_by_matrix": steps.average_by_matrix,
        "average_by_softmax": steps.average_by_softmax,
        "one_head": lambda x: steps.one_head(x, *weights[:, 0]),
        "heads_by_loop": lambda x: steps.heads_by_loop(x, *weights),
        "heads_at_once": lambda x: steps.heads_at_once(x, *weights),
    }
    changed = x.clone()
    changed[:, 5:] *= 100.0
    for name, form in forms.items():
        assert torch.equal(form(x)[:, :5], form(changed)[:, :5]), f"{name}: a later position moved an earlier one"
        assert not torch.equal(form(x)[:, 5:], form(changed)[:, 5:]), f"{name}: the change went unnoticed"


def test_an_encoder_sees_all_of_its_sequence():
    x, (w_query, w_key) = random(2, 7, 6), random(2, 6, 4, seed=1)
    shares = steps.head_shares(x, w_query, w_key, causal=False)
    assert bool((shares > 0.0).all())
    assert_same(shares.sum(dim=-1), torch.ones(2, 7, dtype=torch.float64))


@pytest.mark.parametrize("D", [4, 16, 64])
def test_scaling_keeps_the_variance_of_scores_at_1_whatever_the_width(D):
    unscaled, sure = steps.spread_of_scores(64, D, False, torch.Generator().manual_seed(0))
    scaled, unsure = steps.spread_of_scores(64, D, True, torch.Generator().manual_seed(0))
    assert unscaled == pytest.approx(D, rel=0.25), f"variance {unscaled:.2f} of sums of {D} products"
    assert scaled == pytest.approx(1.0, rel=0.25), f"variance {scaled:.2f} after scaling"
    assert sure > unsure, f"the favourite gets {sure:.2f} unscaled, {unsure:.2f} scaled"


def test_causal_attention_to_another_sequence_is_refused():
    x, w = random(1, 2, 3), random(3, 3)
    with pytest.raises(ValueError, match=r"causal attention to another sequence: .* give causal=False"):
        steps.head_shares(x, w, w, seen=x)


def test_the_lesson_tells_what_it_does(capsys, tmp_path):
    steps.main(tmp_path)
    said = capsys.readouterr().out
    for part in ("0.1808  -0.0700", "-0.0341   0.1332", "0.1574   0.8426", "favourite", "cross-attention"):
        assert part in said, f"{part!r} is not in what the lesson printed"
