"""Lesson 1: gradients of anything, by the chain rule, in a class that remembers how its number came about.

To learn is to turn many numbers so that one number, the loss, gets smaller. For that one must know the slope of
the loss in each of them: the gradient. No formula for the whole is needed. Each single operation knows its own
slopes (of a * b: b for a, and a for b), and along a chain of operations slopes multiply. Where a number is used
twice, its two slopes add up.

    Value      a number, and from which others it was made, with the slope in each of them
    backward   from the result back to the beginnings: every number gets its slope, each operation visited once
    Neuron     a weighted sum and a bend; a Layer has several, a Network several layers
    descend    turn each number a little against its slope, and again

That is all of it. torch does the same with arrays in place of single numbers, and from lesson 2 on it does so
for us.

    python -m reference.lessons.autograd
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from reference.cli.progress import watched
from reference.lessons import command, drawing

STATED_LOSS = 0.01  # at which training on two half moons stops


class Value:
    """A number in an expression. `grad` is the slope of the result in this number, once `backward` has run.

    Args:
        data: the number
        made_from: the numbers that it was computed from, each with the slope of this one in it
    """

    def __init__(self, data: float, made_from: Sequence[tuple[Value, float]] = ()) -> None:
        self.data = data
        self.made_from = made_from
        self.grad = 0.0

    def __add__(self, other: Value | float) -> Value:
        other = value(other)
        return Value(self.data + other.data, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other: Value | float) -> Value:
        other = value(other)
        return Value(self.data * other.data, [(self, other.data), (other, self.data)])

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, [(self, power * self.data ** (power - 1))])

    def exp(self) -> Value:
        """e to this."""
        result = math.exp(self.data)
        return Value(result, [(self, result)])

    def log(self) -> Value:
        """The natural logarithm."""
        return Value(math.log(self.data), [(self, 1.0 / self.data)])

    def tanh(self) -> Value:
        """Bent into -1 to 1; far out the slope is nearly 0, and lesson 3 shows what that does."""
        result = math.tanh(self.data)
        return Value(result, [(self, 1.0 - result * result)])

    def relu(self) -> Value:
        """Itself above 0, else 0. There the slope is 0 too: such a neuron is off and learns nothing from this."""
        return Value(max(0.0, self.data), [(self, float(self.data > 0.0))])

    # What remains is made of the above, slopes included.
    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -value(other)

    def __truediv__(self, other: Value | float) -> Value:
        return self * value(other) ** -1.0

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Value:
        return value(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return value(other) / self

    def backward(self) -> None:
        """Give every number that this one was made from its `grad`: how fast this one changes with it.

        A number may be used in several places, and all of them must have their share before it hands on its
        own: therefore in the reverse of the order in which they were made.
        """
        order = self.history()
        for number in order:
            number.grad = 0.0
        self.grad = 1.0
        for number in reversed(order):
            for source, slope in number.made_from:
                source.grad += slope * number.grad  # += and not =: every use counts

    def history(self) -> list[Value]:
        """All numbers that lead to this one, each once and after those that it was made from."""
        order: list[Value] = []
        seen: set[int] = set()
        waiting = [(self, False)]  # a list instead of recursion: sums of a thousand terms are deep
        while waiting:
            number, ready = waiting.pop()
            if ready:
                order.append(number)
            elif id(number) not in seen:
                seen.add(id(number))
                waiting.append((number, True))
                waiting.extend((source, False) for source, _ in number.made_from)
        return order


def value(number: Value | float) -> Value:
    """A plain number as one that can stand in an expression."""
    return number if isinstance(number, Value) else Value(number)


class Neuron:
    """activation(w . x + b): how much of what it looks for is in x."""

    def __init__(self, weights: Sequence[float], bias: float, activation: str = "relu") -> None:
        if activation not in ("relu", "tanh", "none"):
            raise ValueError(f"activation {activation!r}: choose relu, tanh or none")
        self.weights = [Value(w) for w in weights]
        self.bias = Value(bias)
        self.activation = activation

    def __call__(self, inputs: Sequence[Value | float]) -> Value:
        if len(inputs) != len(self.weights):
            raise ValueError(f"{len(inputs)} inputs for {len(self.weights)} weights: give one for each")
        total = sum((w * x for w, x in zip(self.weights, inputs, strict=True)), start=self.bias)
        if self.activation == "none":
            return total
        return total.relu() if self.activation == "relu" else total.tanh()

    def parameters(self) -> list[Value]:
        """What can be learned."""
        return [*self.weights, self.bias]


class Layer:
    """Neurons that look at the same inputs: a list of numbers in, one of each neuron out."""

    def __init__(self, neurons: Sequence[Neuron]) -> None:
        self.neurons = neurons

    def __call__(self, inputs: Sequence[Value | float]) -> list[Value]:
        return [neuron(inputs) for neuron in self.neurons]

    def parameters(self) -> list[Value]:
        """What can be learned."""
        return [p for neuron in self.neurons for p in neuron.parameters()]


class Network:
    """Layers one after another; the last has one neuron, whose number is the answer."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def __call__(self, inputs: Sequence[Value | float]) -> Value:
        for layer in self.layers:
            inputs = layer(inputs)
        return value(inputs[0])

    def parameters(self) -> list[Value]:
        """What can be learned."""
        return [p for layer in self.layers for p in layer.parameters()]


def random_network(sizes: Sequence[int], dice: random.Random) -> Network:
    """A network of tanh neurons; sizes [2, 8, 1] have 2 inputs, 8 neurons, and then one, the answer."""
    layers = []
    for fan_in, count in pairwise(sizes):
        bound = 1.0 / math.sqrt(fan_in)  # the more inputs, the smaller each weight: why, shows lesson 3
        weights = ([dice.uniform(-bound, bound) for _ in range(fan_in)] for _ in range(count))
        layers.append(Layer([Neuron(row, 0.0, "tanh") for row in weights]))
    return Network(layers)


def squared_error(network: Network, examples: Sequence[tuple[Sequence[float], float]]) -> Value:
    """Mean squared error, (answer - wanted)^2, over examples of inputs and targets."""
    errors = ((network(inputs) - wanted) ** 2 for inputs, wanted in examples)
    return sum(errors, start=Value(0.0)) * (1.0 / len(examples))


def descend(
    network: Network, examples: Sequence[tuple[Sequence[float], float]], steps: int, learning_rate: float
) -> Iterator[float]:
    """Gradient descent in place; yields the loss before each step."""
    for _ in range(steps):
        loss = squared_error(network, examples)
        loss.backward()
        for parameter in network.parameters():
            parameter.data -= learning_rate * parameter.grad  # minus: the gradient points uphill
        yield loss.data


def movie_network(last_activation: str = "relu") -> Network:
    """Whether a viewer likes a film, from its action and romance: two hidden neurons, nine numbers."""
    hidden = Layer([Neuron([0.5, 0.3], 0.1), Neuron([-0.2, 0.8], -0.1)])
    return Network([hidden, Layer([Neuron([0.7, 0.4], 0.05, last_activation)])])


def gradient_by_torch(film: Sequence[float]) -> float:
    """The slope of `movie_network`'s error in the weight of its first hidden neuron, by the library."""
    import torch

    x, w = torch.tensor(film), torch.tensor([0.7, 0.4], requires_grad=True)
    hidden = (torch.tensor([[0.5, 0.3], [-0.2, 0.8]]) @ x + torch.tensor([0.1, -0.1])).relu()
    error = (((w @ hidden) + 0.05).relu() - 1.0) ** 2
    error.backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    return float(w.grad[0])


def two_moons(count: int, dice: random.Random) -> list[tuple[list[float], float]]:
    """Points of two half circles that reach into each other: wanted is 1 on the upper one, -1 on the lower."""
    points = []
    for i in range(count):
        angle = math.pi * dice.random()
        x, y = math.cos(angle) + dice.gauss(0.0, 0.1), math.sin(angle) + dice.gauss(0.0, 0.1)
        points.append(([x, y], 1.0) if i % 2 == 0 else ([1.0 - x, 0.5 - y], -1.0))
    return points


def main(folder: Path = drawing.FOLDER, steps: int = 150) -> None:
    """Follow one gradient by hand, then let a network learn with them."""
    film = [0.8, 0.2]
    network = movie_network()
    h1, h2 = network.layers[0](film)
    answer = network(film)
    loss = (answer - 1.0) ** 2
    loss.backward()
    w = network.layers[1].neurons[0].weights[0]
    print("A film with much action, 0.8, and little romance, 0.2. Two neurons look at it and a third at them:")
    print(f"    {h1.data:.4f} and {h2.data:.4f} (below 0, so off); together {answer.data:.4f}")
    print(f"The viewer loved it: wanted is 1. Squared error: {loss.data:.4f}\n")
    print("How does the error change with the weight from the first neuron, 0.7? Slopes multiply:")
    print(f"    error in answer   2 (answer - 1) = {2 * (answer.data - 1):.4f}")
    print(f"    answer in weight  the first neuron = {h1.data:.4f}")
    print(f"    error in weight   {2 * (answer.data - 1) * h1.data:.4f} by hand, {w.grad:.4f} by backward()")
    nudge = 1e-6
    w.data += nudge
    print(f"    by torch          {gradient_by_torch(film):.4f}")
    print(f"    and by trying     {((network(film) - 1.0) ** 2 - loss).data / nudge:.4f}: turned up by {nudge:g}")
    w.data -= nudge
    print("Negative: more of this weight is less error. A neuron that is off has no say:")
    print(f"    its own weights have the slopes {[abs(v.grad) for v in network.layers[0].neurons[1].weights]}")
    errors = ", ".join(f"{error:.4f}" for error in descend(network, [(film, 1.0)], 5, 0.1))
    print(f"Five steps against the slopes, a tenth of each: the error goes {errors}.\n")

    dice = random.Random(1337)
    network, points = random_network([2, 8, 8, 1], dice), two_moons(40, dice)
    print(f"A larger one: {len(network.parameters())} numbers, {len(points)} points of two half moons to tell apart.")
    print(f"Its loss is an expression of {len(squared_error(network, points).history()):,} numbers.")
    losses = list(watched(descend(network, points, steps, learning_rate=0.5), steps))
    for step in range(0, steps, max(steps // 5, 1)):
        print(f"    step {step:3}   loss {losses[step]:.4f}")
    right = sum(network(inputs).data * wanted > 0 for inputs, wanted in points)
    print(f"Asked for was less than {STATED_LOSS}.", end=" ")
    print(f"In the end {squared_error(network, points).data:.4f}; {right} of {len(points)} are on the right side.")

    grid = [(0.1 * x, 0.1 * y) for x in range(-15, 26) for y in range(-10, 16)]  # the middles of small squares
    cells = [
        {"x": x - 0.05, "y": y - 0.05, "x2": x + 0.05, "y2": y + 0.05, "answer": round(network([x, y]).data, 1)}
        for x, y in grid
    ]
    dots = [{"x": inputs[0], "y": inputs[1], "wanted": str(int(wanted))} for inputs, wanted in points]
    print(drawing.told(drawing.plane(cells, dots), folder / "autograd.png", "What it says everywhere"))


if __name__ == "__main__":
    command.start("autograd", __doc__, main)
