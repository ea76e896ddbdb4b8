"""A GPT-2 from torch's own modules, without code of this project, so that no mutant can change it.

Weights are plain dicts of tensors under the canonical names. Everything is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]  # ids and targets, both (B, T) int64; a target of -1 does not count


def logits(weights: Weights, ids: Tensor, heads: int) -> Tensor:
    """ids (B, T) -> (B, T, V)."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, weights[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.embedding(ids, weights["wte.weight"]) + weights["wpe.weight"][: ids.shape[1]]
    layers = sum(name.endswith("ln_1.weight") for name in weights)
    for block in (f"h.{i}" for i in range(layers)):
        y = norm(x, f"{block}.ln_1")
        q, k, v = (linear(y, f"{block}.attn.{name}_proj").unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv")
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).flatten(2), f"{block}.attn.c_proj")
        y = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        x = x + linear(y, f"{block}.mlp.c_proj")
    return F.linear(norm(x, "ln_f"), weights["wte.weight"])


def loss(weights: Weights, batch: Batch, heads: int) -> Tensor:
    """Mean cross-entropy over the targets that count."""
    ids, targets = batch
    return F.cross_entropy(logits(weights, ids, heads).flatten(0, 1), targets.flatten(), ignore_index=-1)


def gradients(weights: Weights, batch: Batch, heads: int) -> tuple[Tensor, Weights]:
    """The loss and its gradient for every weight."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    value = loss(leaves, batch, heads)
    found = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, found, strict=True))


class Trained:
    """What torch's AdamW makes of some weights: losses, gradient norms, movement, moments, and the weights."""

    def __init__(
        self,
        weights: Weights,
        batches: Sequence[Batch],
        heads: int,
        *,
        learning_rate: Callable[[int], float],
        clip: float,
        weight_decay: float = 0.1,
    ) -> None:
        leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in weights.items()}
        groups = [
            {"params": [p for p in leaves.values() if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in leaves.values() if p.dim() == 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        for number, batch in enumerate(batches):
            for group in adamw.param_groups:
                group["lr"] = learning_rate(number)
            adamw.zero_grad()
            value = loss(leaves, batch, heads)  # type: ignore[arg-type]
            value.backward()  # type: ignore[no-untyped-call]
            self.norms.append(torch.nn.utils.clip_grad_norm_(leaves.values(), clip, foreach=False))
            adamw.step()
            self.losses.append(value.detach())
        self.weights = {name: p.detach() for name, p in leaves.items()}
        self.update = {name: self.weights[name] - tensor for name, tensor in weights.items()}
        self.moments = {
            kind: {name: adamw.state[p][kind] for name, p in leaves.items()} for kind in ("exp_avg", "exp_avg_sq")
        }


@torch.no_grad()
def generated(
    weights: Weights,
    ids: Tensor,
    new: int,
    heads: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """ids (B, T) and the tokens after them, the whole text again for each; never more than the block size of it."""
    block = len(weights["wpe.weight"])
    for _ in range(new):
        scores = logits(weights, ids[:, -block:], heads)[:, -1]
        if temperature == 0.0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            scores = scores / temperature
            if top_k is not None:
                kth = scores.sort(dim=-1, descending=True).values[:, top_k - 1 : top_k]
                scores = torch.where(scores < kth, -torch.inf, scores)
            chosen = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, chosen], dim=1)
    return ids


def hugging_face(weights: Weights) -> Weights:
    """The same weights as `GPT2LMHeadModel` names, joins and turns them: its Conv1D keeps (in, out)."""
    found: Weights = {}
    for name, tensor in weights.items():
        if "_proj" in name and "c_proj" not in name:
            if "q_proj" in name:
                joined = torch.cat([weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
                found["transformer." + name.replace("q_proj", "c_attn")] = joined.mT if joined.dim() == 2 else joined
            continue
        turned = tensor.dim() == 2 and (".attn." in name or ".mlp." in name)
        found[f"transformer.{name}"] = tensor.T if turned else tensor
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}
