"""Another library's GPT-2 as a contender, from one file that builds it and maps our tensors to its parameters.

The file imports its library at the top and defines

    build(config, dtype)       a torch module: ids (B, T) -> logits (B, T, V)
    places(config)             the place of each of our tensors in that module; a tensor without a place does not exist
    write(module, ids, new)    ids (B, T) -> ids and `new` greedy tokens (B, T + new), by the library's own generation
    unlike(config)             why it is another function than GPT-2, in words; "" if it is the same
    layout(weights, config)    `laid_out` by `places`

The candidate tool can test the file unchanged:

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
from bench.contenders.torch_step import build_library_step, decays_by_name, library_loss
from reference import GPTConfig
from reference.checkpoints.huggingface import canonical_shapes, check_tensors


@dataclass(frozen=True)
class Place:
    """Where a library keeps one of our tensors."""

    name: str  # of the module's parameter
    shape: tuple[int, ...]
    transposed: bool = False  # (in, out), unlike nn.Linear's (out, in)

    def theirs(self, tensor: Tensor) -> Tensor:
        """Our tensor in the library's layout."""
        return (tensor.T if self.transposed else tensor).reshape(self.shape)

    def ours(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The library's tensor in our layout and shape."""
        return tensor.reshape(shape[::-1]).T if self.transposed else tensor.reshape(shape)


Places = Mapping[str, Place]  # by canonical name


def laid_out(weights: Weights, places: Places) -> Weights:
    """Canonical weights under the library's names; tensors without a place are dropped."""
    return {place.name: place.theirs(weights[name]) for name, place in places.items()}


class LibraryGPT(nn.Module):
    """A library's module with this project's interface.

    Args:
        module: ids (B, T) -> logits (B, T, V)
        config: the shape
        places: of our tensors. A tensor without a place is not loaded, and is zeros in the state dict. A parameter
            that no place names stays zero and untrained: a bias, if the config has none.
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
        """Mean cross-entropy over targets other than -1, by torch, in at least float32."""
        return library_loss(self(ids), targets)

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
        """Load canonical weights; always strict."""
        check_tensors(dict(state_dict), self.shapes, "canonical state dict")
        own = dict(self.module.named_parameters())
        for name, tensor in laid_out(dict(state_dict), self.places).items():
            own[name].copy_(tensor)


def check_places(parameters: Mapping[str, Tensor], places: Places, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError for a place that the module lacks, usually because the library's version differs."""
    for name, place in places.items():
        if name not in shapes:
            raise ValueError(f"{name!r} is no tensor of this GPT-2")
        if place.name not in parameters:
            raise ValueError(f"{place.name!r}, the place of {name!r}, is no parameter in this version of the library")
        shape = tuple(parameters[place.name].shape)
        if shape != place.shape:
            raise ValueError(f"{place.name!r} has shape {shape} in this version of the library, not {place.shape}")


def of_library(module: str, description: str, needs: Mapping[str, str], keeps_policy: bool = False) -> Contender:
    """Make a contender from a library's file.

    Args:
        module: the file's dotted name; imported on first use
        description: in words
        needs: packages: import name -> argument of pip install
        keeps_policy: whether its precision is fixed when it is built (float32, or bfloat16 over float32 weights) and
            float64 is impossible; if not, bfloat16 is by torch's autocast
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
    """A training step by torch's AdamW and clipping; the tensors that decay are the same as in our GPT."""
    inner: Any = model.model if isinstance(model, Autocast) else model
    ours = {f"module.{place.name}": name for name, place in inner.places.items()}
    return build_library_step(model, decays=lambda name: decays_by_name(ours[name.removeprefix("model.")]), **settings)
