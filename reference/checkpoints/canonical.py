"""One tensor for each parameter, in the canonical layout.

A model's state dict already says how its parameters are laid out canonically: the readable model by its own names,
a fused or padded one through its state-dict hooks, a wrapper through its `state_dict`. All of these only rename,
split, join, transpose and slice, so whatever belongs to the parameters elementwise (gradients, updates, optimizer
moments) can take the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def to_canonical(model: nn.Module, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Send tensors that belong to a model's parameters through the map of its state dict.

    Args:
        model: left as it was
        tensors: by the names of `model.named_parameters()`; each of its parameter's shape and device, None for zeros

    Returns copies under the canonical names. A name that is missing or unknown is a ValueError.
    """
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        raise ValueError(f"tensors for {sorted(parameters.keys() ^ tensors.keys())} are missing or have no parameter")
    kept = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            tensor = tensors[name]
            parameter.data = torch.zeros_like(kept[name]) if tensor is None else tensor
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]


@torch.no_grad()
def from_canonical(model: nn.Module, tensors: dict[str, Tensor], what: str = "") -> dict[str, Tensor]:
    """The way back: canonical tensors -> copies by the names of `model.named_parameters()`.

    Args:
        model: left as it was
        tensors: one for each entry of the model's state dict
        what: put before a name in messages

    A name that is missing or unknown, or a shape that does not fit, is a ValueError.
    """
    wanted = model.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"{what}{name}: " + ("missing" if name in wanted else "unknown to this model"))
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{what}{name} has shape {tuple(tensor.shape)}, this model needs {tuple(wanted[name].shape)}"
            )
    parameters = dict(model.named_parameters())
    kept = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = torch.zeros_like(kept[name])
        model.load_state_dict(tensors)
        return {name: parameter.data for name, parameter in parameters.items()}
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]


def canonical_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that the last backward left, under the canonical names; a missing one counts as zero."""
    return to_canonical(model, {name: parameter.grad for name, parameter in model.named_parameters()})
