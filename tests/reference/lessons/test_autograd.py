"""Value computes what torch computes, value and gradients, and learns with them."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reference.lessons.autograd import (
    STATED_LOSS,
    Layer,
    Network,
    Neuron,
    Value,
    descend,
    movie_network,
    random_network,
    squared_error,
    two_moons,
)

FILM = [0.8, 0.2]  # action and romance

# ---- The same expression in both ----

TWO = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / (b * b + 0.5)}
ONE = {
    "negated": lambda a: -a,
    "squared": lambda a: a**2,
    "to the 1.5": lambda a: (a * a + 0.1) ** 1.5,
    "exp": lambda a: (a * 0.3).exp(),
    "log": lambda a: (a * a + 0.1).log(),
    "tanh": lambda a: a.tanh(),
    "relu": lambda a: a.relu(),
    "from 3": lambda a: 3.0 - a,
    "3 over": lambda a: 3.0 / (a * a + 0.5),
}


def run(program, numbers):
    """Carry out steps on a growing list; a step takes values by their places, so a value may be used again."""
    found = list(numbers)
    for name, i, j in program:
        a, b = found[i % len(found)], found[j % len(found)]
        found.append(TWO[name](a, b) if name in TWO else ONE[name](a))
        found[-1] = found[-1].tanh() * 2.0 if len(found) % 4 == 0 else found[-1]  # keeps numbers in range
    return sum(found[1:], start=found[0])


places = st.integers(0, 30)
programs = st.lists(st.tuples(st.sampled_from([*TWO, *ONE]), places, places), min_size=1, max_size=12)
numbers = st.lists(st.floats(-2.0, 2.0, allow_subnormal=False), min_size=1, max_size=4)


@given(program=programs, numbers=numbers)
def test_any_expression_has_torchs_value_and_torchs_gradients(program, numbers):
    ours = [Value(number) for number in numbers]
    theirs = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in numbers]
    a, b = run(program, ours), run(program, theirs)
    if not math.isfinite(b.item()) or abs(b.item()) > 1e12:
        return
    a.backward()
    b.backward()
    assert a.data == pytest.approx(b.item(), rel=1e-9, abs=1e-12)
    size = max(1.0, *(abs(t.grad.item()) for t in theirs))
    for mine, t in zip(ours, theirs, strict=True):
        assert mine.grad == pytest.approx(t.grad.item(), rel=1e-8, abs=1e-10 * size)


def test_a_number_that_is_used_twice_gets_both_slopes():
    a = Value(3.0)
    (a * a + a).backward()
    assert a.grad == 7.0


def test_backward_run_again_begins_anew():
    a = Value(2.0)
    result = a * 5.0
    result.backward()
    result.backward()
    assert a.grad == 5.0


def test_a_sum_of_ten_thousand_terms_is_not_too_deep():
    a = Value(1.0)
    sum((a * 2.0 for _ in range(10_000)), start=Value(0.0)).backward()
    assert a.grad == 20_000.0


def test_a_neuron_a_layer_and_a_network_are_torchs():
    torch.manual_seed(3)
    modules = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(3, dtype=torch.float64)
    network = Network([of(modules[0], "tanh"), of(modules[2], "none")])
    ours, theirs = network(x.tolist()), modules(x)[0]
    ours.backward()
    theirs.backward()
    assert ours.data == pytest.approx(theirs.item(), rel=1e-12)
    for layer, linear in zip(network.layers, (modules[0], modules[2]), strict=True):
        for neuron, row, bias in zip(layer.neurons, linear.weight.grad, linear.bias.grad, strict=True):
            assert [w.grad for w in neuron.weights] == pytest.approx(row.tolist(), rel=1e-10)
            assert neuron.bias.grad == pytest.approx(bias.item(), rel=1e-10)


def of(linear, activation):
    """A layer with the weights of torch's."""
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return Layer([Neuron(weights, bias, activation) for weights, bias in rows])


# ---- The printed numbers ----


def test_the_single_neuron_of_the_film_says_a_half():
    assert Neuron([0.6, -0.4], 0.1)(FILM).data == pytest.approx(0.5)


def test_the_network_of_the_film_says_0_4420_and_its_second_neuron_is_off():
    network = movie_network()
    assert [h.data for h in network.layers[0](FILM)] == [pytest.approx(0.56), 0.0]
    assert network(FILM).data == pytest.approx(0.4420)
    assert len(network.parameters()) == 9


def test_the_chain_rule_at_an_answer_of_0_5560_gives_the_printed_slopes():
    """The notebook goes on with 0.5560, which is not what its network says; its slopes follow from it."""
    weight, h1 = Value(0.7), 0.56
    answer = weight * h1 + (0.5560 - 0.7 * 0.56)
    loss = (1.0 - answer) ** 2
    loss.backward()
    assert (loss.data, answer.grad, weight.grad) == pytest.approx((0.1971, -0.8880, -0.4973), abs=5e-5)


def test_the_printed_step_takes_the_error_from_0_3114_to_0_2811():
    network = movie_network()
    before = squared_error(network, [(FILM, 1.0)]).data
    network.layers[1].neurons[0].weights[0].data -= 0.1 * -0.4973
    after = squared_error(network, [(FILM, 1.0)]).data
    assert network(FILM).data == pytest.approx(0.4698, abs=5e-5)
    assert (before, after, before - after) == pytest.approx((0.3114, 0.2811, 0.0303), abs=5e-5)


def test_descent_into_a_bowl_takes_the_printed_steps():
    w = Value(0.0)
    seen = []
    for _ in range(9):
        loss = (w - 3.0) ** 2
        loss.backward()
        seen.append((w.data, loss.data, w.grad))
        w.data -= 0.1 * w.grad
    assert [round(x, 4) for x, _, _ in seen] == [0.0, 0.6, 1.08, 1.464, 1.7712, 2.017, 2.2136, 2.3709, 2.4967]
    assert [round(x, 4) for _, x, _ in seen] == [9.0, 5.76, 3.6864, 2.3593, 1.5099, 0.9664, 0.6185, 0.3958, 0.2533]
    assert [round(x, 4) for _, _, x in seen[:8]] == [-6.0, -4.8, -3.84, -3.072, -2.4576, -1.9661, -1.5729, -1.2583]


def test_a_step_against_the_slope_goes_down_and_one_along_it_up_as_printed():
    w = Value(1.0)
    loss = (w - 3.0) ** 2
    loss.backward()
    assert (loss.data, w.grad) == (4.0, -4.0)
    for step, w_after, loss_after in ((-0.1, 1.4, 2.56), (0.1, 0.6, 5.76)):
        moved = w.data + step * w.grad
        assert (moved, ((Value(moved) - 3.0) ** 2).data) == pytest.approx((w_after, loss_after))


def test_ten_steps_from_torchs_weights_of_seed_42_have_the_printed_losses():
    torch.manual_seed(42)
    network = Network([of(nn.Linear(2, 2), "relu"), of(nn.Linear(2, 1), "none")])
    answers, losses = [], []
    for loss in descend(network, [(FILM, 1.0)], 9, learning_rate=0.1):
        losses.append(loss)
        answers.append(network(FILM).data)  # after the step of this loss
    assert [round(losses[i], 4) for i in (0, 2, 4, 6, 8)] == [0.2065, 0.0422, 0.0087, 0.0018, 0.0004]
    assert [round(answers[i - 1], 4) for i in (2, 4, 6, 8, 9)] == [0.7946, 0.9066, 0.9579, 0.9812, 0.9874]
    assert squared_error(network, [(FILM, 1.0)]).data == pytest.approx(0.0002, abs=5e-5)


# ---- Learning ----


def test_two_half_moons_are_told_apart_with_a_loss_below_a_tenth():
    dice = random.Random(0)
    network, points = random_network([2, 6, 1], dice), two_moons(16, dice)
    assert squared_error(network, points).data > 0.5
    list(descend(network, points, 150, learning_rate=0.5))
    after = squared_error(network, points).data
    assert after < 0.1, f"loss {after:.4f}"


@pytest.mark.slow
def test_the_lessons_network_reaches_the_stated_loss():
    dice = random.Random(1337)
    network, points = random_network([2, 8, 8, 1], dice), two_moons(40, dice)
    list(descend(network, points, 150, learning_rate=0.5))
    assert len(network.parameters()) == 105
    assert squared_error(network, points).data < STATED_LOSS


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: Neuron([1.0], 0.0, "sigmoid"), "activation 'sigmoid': choose relu, tanh or none"),
        (lambda: Neuron([1.0], 0.0)([1.0, 2.0]), "2 inputs for 1 weights: give one for each"),
    ],
)
def test_a_mistake_is_one_line(wrong, line):
    with pytest.raises(ValueError, match=line):
        wrong()
