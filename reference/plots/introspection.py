"""Look inside a model: embedding on a plane, activations with their gradients, sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reference.gpt import GPT
from reference.ids import check_ids, check_targets, check_values
from reference.sampling import next_token_probabilities
from reference.training.evaluation import evaluating


def flattened(table: Tensor) -> tuple[Tensor, float]:
    """Project the rows of a table on their first two principal components.

    Args:
        table: (V, C), with at least two rows and columns

    Returns the places (V, 2), and the share of all variance that the two directions hold. A direction points to
    where the first row that is not at its middle has a positive number, so that equal tables look alike.
    """
    if min(table.shape) < 2:
        raise ValueError(f"a table of {table.shape[0]} x {table.shape[1]}: two of each are needed for a plane")
    centred = table.double() - table.double().mean(dim=0)
    _, strengths, directions = torch.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    firsts = (places.abs() > 1e-9 * places.abs().max()).int().argmax(dim=0)
    places = places * torch.where(places.gather(0, firsts[None])[0] < 0, -1.0, 1.0)
    return places, float(strengths[:2].square().sum() / strengths.square().sum().clamp(min=1e-300))


def streams_and_gradients(model: GPT, ids: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The residual stream before the first block and after each block, and the gradients of the loss there.

    Args:
        ids, targets: (B, T) int64, one batch; computed without dropout

    Returns n_layer + 1 activations and as many gradients, each (B, T, C). The model's own gradients stay untouched.
    """
    check_ids(ids, model.config)
    check_targets(targets, ids, model.config.vocab_size)
    streams: list[Tensor] = []

    def before(_: object, inputs: tuple[Tensor]) -> None:
        streams.append(inputs[0])

    def after(_: object, __: object, output: Tensor) -> None:
        streams.append(output)

    hooks = [model.h[0].register_forward_pre_hook(before)]
    hooks += [block.register_forward_hook(after) for block in model.h]
    try:
        with evaluating(model), torch.enable_grad():
            gradients = torch.autograd.grad(model.loss(ids, targets), streams)
    finally:
        for hook in hooks:
            hook.remove()
    return [stream.detach() for stream in streams], list(gradients)


@torch.no_grad()
def choices(
    model: GPT, ids: Sequence[int], count: int, temperature: float, generator: torch.Generator
) -> list[tuple[int, float]]:
    """Sample tokens one after another, each with its probability.

    Args:
        ids: the prompt; of one longer than the block, the model sees the end
        temperature: 0 takes the most probable token, with probability 1
    """
    check_values(torch.tensor(ids), model.config.vocab_size)
    seen = list(ids)
    drawn: list[tuple[int, float]] = []
    with evaluating(model):
        for _ in range(count):
            window = torch.tensor([seen[-model.config.block_size :]], device=model.wte.weight.device)
            shares = next_token_probabilities(model(window)[:, -1].double().cpu(), temperature)[0]
            token = int(torch.multinomial(shares, num_samples=1, generator=generator))
            drawn.append((token, float(shares[token])))
            seen.append(token)
    return drawn
