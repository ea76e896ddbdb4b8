"""Another library's GPT-2 as a contender, from one file that says how it is built and where it keeps our tensors.

The file imports its library at its head, and has

    build(config, dtype)       a torch module whose call with ids (B, T) gives logits (B, T, V)
    places(config)             where that module keeps each of our tensors; those that are missing it does not have
    write(module, ids, new)    ids (B, T) and the `new` most probable tokens after them, by the library's own means
    unlike(config)             why it is another function than GPT-2, in words; "" if it is the same
    layout(weights, config)    `laid_out` by `places`

so that it can be put to the candidate tool as it is:

    python -m bench compare --candidate bench.contenders.NAME --layout bench.contenders.NAME:layout
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.contenders.autocast import Autocast
from bench.contenders.contender import Contender, Weights, loaded
from bench.contenders.torch_step import build_library_step, decays_by_name
from reference import GPTConfig
from reference.checkpoints.huggingface import canonical_shapes, check_tensors


@dataclass(frozen=True)
class Place:
    """Where a library keeps one of our tensors."""

    name: str  # among the module's parameters
    shape: tuple[int, ...]
    transposed: bool = False  # kept as (in, out), where nn.Linear has (out, in)

    def theirs(self, tensor: Tensor) -> Tensor:
        """Our tensor as they keep it."""
        return (tensor.T if self.transposed else tensor).reshape(self.shape)

    def ours(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Theirs as we keep it, in our shape."""
        return tensor.reshape(shape[::-1]).T if self.transposed else tensor.reshape(shape)


Places = Mapping[str, Place]  # by canonical name


def laid_out(weights: Weights, places: Places) -> Weights:
    """Canonical weights by the library's names, less those that it has no place for."""
    return {place.name: place.theirs(weights[name]) for name, place in places.items()}


class LibraryGPT(nn.Module):
    """A library's module behind the protocol of this project.

    Args:
        module: its call with ids (B, T) gives logits (B, T, V)
        config: the shape
        places: of our tensors. One that is missing is left out when weights are loaded, and is zeros in the state
            dict. A parameter that no place names is held at zero and not trained: a bias, where the config has none.
    """

    def __init__(self, module: nn.Module, config: GPTConfig, places: Places) -> None:
        super().__init__()
        self.module, self.config, self.places = module, config, places
        self.shapes = canonical_shapes(config)
        check_places(dict(module.named_parameters()), places, self.shapes)
        known = {place.name for place in places.values()}
        for name, parameter in module.named_parameters():
            if name not in known:
                nn.init.zeros_(parameter).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        logits: Tensor = self.module(ids)
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the targets that are not -1, by torch, in float32 at least."""
        logits = self(ids)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The canonical layout."""
        own = {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        some = next(iter(own.values()))
        return {
            name: self.places[name].ours(own[self.places[name].name], shape)
            if name in self.places
            else some.new_zeros(shape)
            for name, shape in self.shapes.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Take over canonical weights; strict whatever is asked."""
        check_tensors(dict(state_dict), self.shapes, "canonical state dict")
        own = dict(self.module.named_parameters())
        for name, tensor in laid_out(dict(state_dict), self.places).items():
            own[name].copy_(tensor)


def check_places(parameters: Mapping[str, Tensor], places: Places, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError for a place that the module does not have: another version of the library, as a rule."""
    for name, place in places.items():
        if name not in shapes:
            raise ValueError(f"{name!r} is no tensor of this GPT-2")
        if place.name not in parameters:
            raise ValueError(f"{place.name!r} is no parameter of this version of the library, where {name!r} is kept")
        shape = tuple(parameters[place.name].shape)
        if shape != place.shape:
            raise ValueError(f"{place.name!r} has shape {shape} in this version of the library, not {place.shape}")


def of_library(module: str, description: str, needs: Mapping[str, str], keeps_policy: bool = False) -> Contender:
    """The contender of a file.

    Args:
        module: the file, by its dotted name; imported when it is needed
        description: in words
        needs: packages: the name that is imported -> what pip installs
        keeps_policy: whether it computes in what it is built for, whatever its weights are: in float32 or, over
            float32 weights, in bfloat16, and never in float64; if not, torch's autocast has it compute in bfloat16
    """

    def made(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> LibraryGPT:
        file = importlib.import_module(module)
        return LibraryGPT(file.build(config, dtype), config, file.places(config))

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return loaded(made(config, weights, device, dtype), weights, device, dtype)

    def build_bfloat16(
        config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        return loaded(made(config, weights, device, torch.bfloat16), weights, device, dtype)

    def write(model: Any, ids: Tensor, new: int) -> Tensor:
        within = torch.autocast(model.kind, torch.bfloat16) if isinstance(model, Autocast) else nullcontext()
        inner = model.model if isinstance(model, Autocast) else model
        with within, torch.no_grad():
            text: Tensor = importlib.import_module(module).write(inner.module, ids, new)
        return text

    def unlike(config: GPTConfig) -> str:
        words: str = importlib.import_module(module).unlike(config)
        return words

    return Contender(
        description,
        build,
        step,
        write,
        build_bfloat16 if keeps_policy else None,
        float64=not keeps_policy,
        module=module,
        needs=needs,
        unlike=unlike,
    )


def step(model: nn.Module, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """By torch's AdamW and clipping; what decays here is what decays in our GPT, whatever it is called there."""
    inner: Any = model.model if isinstance(model, Autocast) else model
    ours = {f"module.{place.name}": name for name, place in inner.places.items()}
    return build_library_step(model, decays=lambda name: decays_by_name(ours[name.removeprefix("model.")]), **settings)
