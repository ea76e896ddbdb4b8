"""One tensor for each parameter, in the canonical layout.

A model's state dict defines the map from its parameters to the canonical layout: by the reference's own names, by
state-dict hooks of a fused or padded model, or by a wrapper's `state_dict`. All of these only rename, split, join,
transpose and slice. So the same map serves every elementwise companion of the parameters: gradients, updates, moments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def to_canonical(model: nn.Module, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Map tensors that belong to a model's parameters to the canonical layout.

    Args:
        model: unchanged
        tensors: by the names of `model.named_parameters()`, each with its parameter's shape and device; None for zeros

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
    """The inverse of `to_canonical`: canonical tensors -> copies by the names of `model.named_parameters()`.

    Args:
        model: unchanged
        tensors: one for each entry of the model's state dict
        what: prefix of names in messages

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
    """The gradients of a model's parameters under canonical names; zeros where there is none."""
    return to_canonical(model, {name: parameter.grad for name, parameter in model.named_parameters()})
