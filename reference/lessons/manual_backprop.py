"""Lesson 5: all gradients of a network by hand, one line back for each line forward.

Lesson 1 did it for single numbers; here the numbers are arrays, and autograd only checks. The network is that of
lesson 3 with the batch norm of lesson 4. Going back, each line asks: if this result changes a little, by how much
does the loss change? Three rules answer nearly all of it.

    a product y = x @ w     d_x = d_y @ w.T and d_w = x.T @ d_y: no other combination fits the shapes
    what was spread out     (a bias for all rows, a gain for all rows): its slopes are summed up
    what was summed up      its slope is spread out: each part has it

Two steps are worth doing as one. Softmax and cross-entropy together have the slope (share - 1 at the target) / B:
how much too much was expected of each letter. And the norm has the formula of lesson 4.

At the end the network learns by these gradients alone, without autograd.

    python -m reference.lessons.manual_backprop

Shapes: B batch, T = 3 letters of past, E numbers for each, H hidden neurons, V = 27 letters with the end.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from reference.cli.progress import watched
from reference.functional import softmax
from reference.lessons import command, drawing
from reference.lessons.names import ALPHABET, examples, load_names, split_names

V = len(ALPHABET)
EPS = 1e-5
Numbers = dict[str, Tensor]


def parameters(generator: torch.Generator, block: int = 3, width: int = 10, hidden: int = 64) -> Numbers:
    """What is learned, by name. Nothing is 0 or 1 at first, gain and biases included: such would hide mistakes."""

    def draw(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    return {
        "embedding": draw(V, width, scale=1.0),  # (V, E)
        "w1": draw(block * width, hidden, scale=5 / 3 / math.sqrt(block * width)),  # (T * E, H)
        "b1": draw(hidden, scale=0.1),
        "gain": 1.0 + draw(hidden, scale=0.1),
        "shift": draw(hidden, scale=0.1),
        "w2": draw(hidden, V, scale=0.1),  # (H, V)
        "b2": draw(V, scale=0.1),
    }


def forward(p: Numbers, contexts: Tensor, targets: Tensor) -> Numbers:
    """The loss at the targets (B,) after contexts (B, T), with every number on the way, by name."""
    B = len(contexts)
    looked_up = p["embedding"][contexts]  # (B, T, E)
    x = looked_up.view(B, -1)  # (B, T * E)
    before = x @ p["w1"] + p["b1"]  # (B, H)
    mean = before.mean(dim=0)  # (H,)
    centred = before - mean
    variance = centred.square().mean(dim=0)  # (H,)
    inverse = (variance + EPS) ** -0.5
    normal = centred * inverse  # (B, H)
    scaled = normal * p["gain"] + p["shift"]
    hidden = scaled.tanh()
    logits = hidden @ p["w2"] + p["b2"]  # (B, V)
    largest = logits.amax(dim=1, keepdim=True).detach()  # cancels; only against overflow
    exponents = (logits - largest).exp()
    total = exponents.sum(dim=1, keepdim=True)  # (B, 1)
    shares = exponents / total  # (B, V)
    log_shares = shares.log()
    loss = -log_shares[torch.arange(B), targets].mean()
    return {
        "looked_up": looked_up, "x": x, "before": before, "mean": mean, "centred": centred, "variance": variance,
        "inverse": inverse, "normal": normal, "scaled": scaled, "hidden": hidden, "logits": logits,
        "exponents": exponents, "total": total, "shares": shares, "log_shares": log_shares, "loss": loss,
    }  # fmt: skip


def backward(p: Numbers, contexts: Tensor, targets: Tensor, kept: Numbers) -> Numbers:
    """The slope of the loss in every number of `forward` and in every parameter, line by line from its end."""
    B = len(contexts)
    d: Numbers = {}
    d["log_shares"] = torch.zeros_like(kept["log_shares"])
    d["log_shares"][torch.arange(B), targets] = -1.0 / B  # only the target's share counts, and it is a mean
    d["shares"] = d["log_shares"] / kept["shares"]
    d["total"] = -(d["shares"] * kept["exponents"]).sum(dim=1, keepdim=True) / kept["total"] ** 2
    d["exponents"] = d["shares"] / kept["total"] + d["total"]  # used twice: divided, and in the total
    d["logits"] = d["exponents"] * kept["exponents"]  # exp is its own slope
    d["b2"] = d["logits"].sum(dim=0)
    d["w2"] = kept["hidden"].T @ d["logits"]
    d["hidden"] = d["logits"] @ p["w2"].T
    d["scaled"] = d["hidden"] * (1.0 - kept["hidden"] ** 2)
    d["shift"] = d["scaled"].sum(dim=0)
    d["gain"] = (d["scaled"] * kept["normal"]).sum(dim=0)
    d["normal"] = d["scaled"] * p["gain"]
    d["inverse"] = (d["normal"] * kept["centred"]).sum(dim=0)
    d["variance"] = d["inverse"] * -0.5 * (kept["variance"] + EPS) ** -1.5
    d["centred"] = d["normal"] * kept["inverse"] + d["variance"] * 2.0 * kept["centred"] / B
    d["mean"] = -d["centred"].sum(dim=0)
    d["before"] = d["centred"] + d["mean"] / B
    d["b1"] = d["before"].sum(dim=0)  # zero: the norm takes any bias away again, so b1 never learns
    d["w1"] = kept["x"].T @ d["before"]
    d["x"] = d["before"] @ p["w1"].T
    d["looked_up"] = d["x"].view(kept["looked_up"].shape)
    d["embedding"] = torch.zeros_like(p["embedding"])
    d["embedding"].index_add_(0, contexts.flatten(), d["looked_up"].flatten(0, 1))  # a letter gets all its slopes
    return d


def short_backward(p: Numbers, contexts: Tensor, targets: Tensor, kept: Numbers) -> Numbers:
    """The same slopes in every parameter, with softmax and loss as one step, and the norm as one."""
    B = len(contexts)
    d_logits = kept["shares"].clone()
    d_logits[torch.arange(B), targets] -= 1.0
    d_logits /= B
    d_scaled = (d_logits @ p["w2"].T) * (1.0 - kept["hidden"] ** 2)
    d_normal, normal = d_scaled * p["gain"], kept["normal"]
    d_before = kept["inverse"] * (d_normal - d_normal.mean(dim=0) - normal * (d_normal * normal).mean(dim=0))
    d_embedding = torch.zeros_like(p["embedding"])
    d_embedding.index_add_(0, contexts.flatten(), (d_before @ p["w1"].T).view(-1, p["embedding"].shape[1]))
    return {
        "embedding": d_embedding,
        "w1": kept["x"].T @ d_before,
        "b1": d_before.sum(dim=0),
        "gain": (d_scaled * normal).sum(dim=0),
        "shift": d_scaled.sum(dim=0),
        "w2": kept["hidden"].T @ d_logits,
        "b2": d_logits.sum(dim=0),
    }


def by_autograd(p: Numbers, contexts: Tensor, targets: Tensor) -> Numbers:
    """What autograd says of every number of `forward` and every parameter: the oracle."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in p.items()}
    kept = forward(leaves, contexts, targets)
    wanted = {**leaves, **{name: number for name, number in kept.items() if name != "loss"}}
    return dict(zip(wanted, torch.autograd.grad(kept["loss"], list(wanted.values())), strict=True))


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, or |a - b| where b is nothing but rounding."""
    return float((a - b).norm() / (b.norm() if float(b.norm()) > 1e-9 else 1.0))


@torch.no_grad()
def train(p: Numbers, data: tuple[Tensor, Tensor], steps: int, generator: torch.Generator) -> list[float]:
    """Learn in place by `short_backward`, in batches of 32; the loss of each."""
    losses = []
    for step in watched(range(steps), steps):
        chosen = torch.randint(len(data[0]), (32,), generator=generator)
        contexts, targets = data[0][chosen], data[1][chosen]
        kept = forward(p, contexts, targets)
        rate = 0.1 if step < 0.75 * steps else 0.01
        for name, gradient in short_backward(p, contexts, targets, kept).items():
            p[name] -= rate * gradient
        losses.append(float(kept["loss"]))
    return losses


def main(folder: Path = drawing.FOLDER, steps: int = 4800) -> None:
    """Compare each gradient with autograd's, then learn without it."""
    torch.set_num_threads(1)  # with tensors this small, several threads mostly wait for each other
    training, validation, _ = (examples(part, block=3) for part in split_names(load_names()))
    p = parameters(torch.Generator().manual_seed(1337))
    contexts, targets = training[0][:32], training[1][:32]

    exact = {name: parameter.double() for name, parameter in p.items()}
    kept = forward(exact, contexts, targets)
    ours, theirs = backward(exact, contexts, targets, kept), by_autograd(exact, contexts, targets)
    print("From the loss back to the letters, each slope by hand; how far from autograd's, in float64:")
    for name, gradient in ours.items():
        shape = " x ".join(str(n) for n in gradient.shape)
        print(f"    {name:<12} {shape:<12} {relative(gradient, theirs[name]):.0e}")
    short = short_backward(exact, contexts, targets, kept)
    print("With softmax and loss as one step, and the norm as one, at worst:", end=" ")
    print(f"{max(relative(short[name], theirs[name]) for name in short):.0e}\n")

    share = softmax(kept["logits"])[0]
    wanted = int(targets[0])
    slopes = ours["logits"][0] * 32
    print("What the short form says: at the first example, each score is pushed down by what was expected of it,")
    print(f"and that of the right letter, {ALPHABET[wanted]!r}, up by what was missing:")
    top = [i for i in share.argsort(descending=True).tolist() if i != wanted][:3]
    for i in (*top, wanted):
        print(f"    {ALPHABET[i]!r}  share {float(share[i]):6.1%}   slope {float(slopes[i]):+.3f}")

    count = sum(parameter.numel() for parameter in p.values())
    print(f"\nNow {count:,} numbers learn for {steps:,} steps, autograd switched off:")
    losses = torch.tensor(train(p, training, steps, torch.Generator().manual_seed(1337)))
    with torch.no_grad():
        print(f"    loss {losses[: steps // 20].mean():.2f} at first, {forward(p, *training)['loss']:.2f} in the end,")
        print(f"    {forward(p, *validation)['loss']:.2f} on names kept back")
    rows = [
        {"letter": ALPHABET[i], "kind": kind, "row": f"{ALPHABET[t]} wanted", "column": ALPHABET[i], "panel": kind,
         "share": float(abs(numbers[example, i]))}
        for kind, numbers in (("share expected", kept["shares"]), ("slope of the score, size", ours["logits"] * 32))
        for example, t in enumerate(targets[:8].tolist())
        for i in range(V)
    ]  # fmt: skip
    chart = drawing.tables(rows, "Slope = share - 1 at the target", "eight examples, before learning", size=13)
    print(drawing.told(chart, folder / "manual_backprop.png", "Shares and slopes"))


if __name__ == "__main__":
    command.start("manual_backprop", __doc__, main)
