"""Adapt a user's module to the protocol of this project: `model(ids)`, `model.loss`, a canonical state dict.

The module keeps its own names and layout. A layout is a linear map from our state dict to the module's: it maps weights
to the module; its transpose, by autograd, maps gradients back; its inverse maps weights and updates back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.layouts import Layout
from bench.contenders.torch_step import LibraryStep, build_library_step
from bench.formatting import one_line
from reference.checkpoints.canonical import to_canonical
from reference.config import GPTConfig

Build = Callable[[GPTConfig], Any]
HEAD = "lm_head.weight"  # a layout may return it even if the module has only the tied token table
PREFIX = "transformer."
COMPILED = "_orig_mod."  # torch.compile prefixes a module's names with it


class Refused(ValueError):
    """A candidate that cannot be tested; the message says why, in one line."""


class Candidate(nn.Module):
    """A module with its layout.

    Args:
        module: the result of `build`
        config: of `build`
        layout: canonical state dict -> the module's
        weights: canonical, to load into the module

    Raises ValueError, one line, if the weights do not fit the module.
    """

    def __init__(self, module: nn.Module, config: GPTConfig, layout: Layout, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.module, self.config, self.layout = module, config, layout
        self.takes_targets = takes_targets(module)
        self.shapes = {name: tensor.shape for name, tensor in weights.items()}
        self.load(weights)
        self.share = self.shares()
        self.hold_constants()

    # Weights in

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load canonical weights into the module."""
        own = self.translated({name: tensor.detach() for name, tensor in weights.items()})
        buffers = {name for name, _ in self.module.named_buffers()}
        try:
            missing, unexpected = self.module.load_state_dict(own, strict=False)
        except Exception as error:
            text = str(error).split("\n\t")[-1]  # torch lists all mismatches, one per line
            raise ValueError(f"layout: its weights do not fit the candidate: {' '.join(text.split())}") from None
        here = self.module.state_dict()
        given = {place(tensor) for name, tensor in here.items() if name in own}
        missing = [
            n for n in missing if n not in buffers and place(here[n]) not in given
        ]  # tied: loaded under its other name
        if missing or unexpected:
            parts = [f"gives nothing for {some(missing)}"] if missing else []
            parts += [f"gives {some(unexpected)}, which the candidate does not have"] if unexpected else []
            have = [name for name in self.module.state_dict() if name not in buffers]
            raise ValueError(f"layout: {' and '.join(parts)}; the candidate's tensors are {some(have)}")

    def translated(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map canonical tensors to the module's names and layout."""
        try:
            own = self.layout(weights, self.config)
        except Exception as error:
            raise ValueError(f"layout: raised {one_line(error)}") from error
        if not isinstance(own, Mapping) or not all(isinstance(tensor, Tensor) for tensor in own.values()):
            raise ValueError(f"layout: returned {type(own).__name__}: give a dict of tensors by name")
        names = self.module.state_dict().keys()
        if all(name.startswith(COMPILED) for name in names):
            own = {COMPILED + name: tensor for name, tensor in own.items()}
        elif not any(
            name.startswith(PREFIX) for name in names
        ):  # a GPT2Model, without the wrapper that adds the prefix
            own = {name.removeprefix(PREFIX): tensor for name, tensor in own.items()}
        return {name: tensor for name, tensor in own.items() if name in names or name != HEAD}

    # Weights, gradients and updates out

    def transposed(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map tensors from the module's names to canonical names, by the transpose of the layout."""
        with torch.enable_grad():
            inputs = {n: torch.zeros(s, dtype=torch.float64, requires_grad=True) for n, s in self.shapes.items()}
            try:
                outputs = self.translated(dict(inputs))
            except ValueError:
                outputs = {}
            kept = {name: tensor for name, tensor in outputs.items() if name in own and tensor.requires_grad}
            if not kept:
                raise ValueError(
                    "layout: autograd cannot follow it, so gradients cannot be mapped back: write it in torch "
                    "operations, without detach, numpy, .data or no_grad"
                )
            found = torch.autograd.grad(
                list(kept.values()),
                list(inputs.values()),
                [own[name].detach().to(tensor) for name, tensor in kept.items()],
                allow_unused=True,
                materialize_grads=True,
            )
        return dict(zip(inputs, found, strict=True))

    def once(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Drop buffers and the second name of tied tensors."""
        seen, buffers, out = set(), {name for name, _ in self.module.named_buffers()}, {}
        for name, tensor in self.module.state_dict().items():
            if name in own and name not in buffers and place(tensor) not in seen:
                seen.add(place(tensor))
                out[name] = own[name]
        return out

    def shares(self) -> dict[str, Tensor]:
        """By canonical name, how many copies of each value the module has: 1; 2 for a table that should be tied and is
        not; 0 for a tensor that the layout leaves out."""
        with torch.no_grad():
            ones = {name: torch.ones(shape, dtype=torch.float64) for name, shape in self.shapes.items()}
            zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes.items()}
            full, empty = self.translated(ones), self.translated(zeros)
        return self.transposed(self.once({name: full[name] - empty[name] for name in full}))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The weights in the canonical layout, float64; zeros for tensors that the layout leaves out."""
        sums = self.transposed(self.once(self.module.state_dict()))
        return {name: tensor / self.share[name].clamp(min=1e-300) for name, tensor in sums.items()}

    def canonical_gradients(self) -> dict[str, Tensor]:
        """The gradients of the last backward pass, by canonical name; a missing gradient is zero."""
        names = self.once(self.module.state_dict())
        gradients = to_canonical(self.module, {name: p.grad for name, p in self.module.named_parameters()})
        return self.transposed({name: gradients[name] for name in names})

    def hold_constants(self) -> None:
        """Do not train tensors that the layout sets to constants, such as biases if the config has none."""
        ones = {name: torch.ones(shape, dtype=torch.float64, requires_grad=True) for name, shape in self.shapes.items()}
        constant = {name for name, tensor in self.translated(dict(ones)).items() if not tensor.requires_grad}
        for name, parameter in self.module.named_parameters():
            if name in constant:
                parameter.requires_grad_(False)

    def build_step(self, **settings: Any) -> LibraryStep:
        """torch's AdamW over the module, with weight decay on the same weights as in the reference."""
        ones = {n: torch.full(s, 1.0 if len(s) > 1 else 0.0, dtype=torch.float64) for n, s in self.shapes.items()}
        with torch.no_grad():
            own = {f"module.{name}": bool(tensor.mean() > 0.5) for name, tensor in self.translated(ones).items()}
        dims = {name: parameter.dim() >= 2 for name, parameter in self.named_parameters()}
        return build_library_step(self, decays=lambda name: own.get(name, dims[name]), **settings)

    # The model

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        if self.takes_targets:
            return logits_of(self.module(ids, targets=ids))
        return logits_of(self.module(ids))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The candidate's own loss, or torch's mean cross-entropy of its logits; targets of -1 are ignored."""
        if callable(getattr(self.module, "loss", None)):
            loss: Tensor = self.module.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
            return loss
        if self.takes_targets:
            found = self.module(ids, targets=targets)
            own = loss_of(found)
            if own is not None:
                return own
            logits = logits_of(found)
        else:
            logits = logits_of(self.module(ids))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    @property
    def loss_is_own(self) -> bool:
        """Whether the candidate has its own loss."""
        return self.takes_targets or callable(getattr(self.module, "loss", None))


def place(tensor: Tensor) -> tuple[object, ...]:
    """The memory of a tensor: equal for two names of one tied table."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def takes_targets(module: nn.Module) -> bool:
    """Whether forward has an argument `targets`, as nanoGPT's, which returns all positions only if it is given."""
    try:
        return "targets" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return False


def logits_of(found: Any) -> Tensor:
    """The logits of a call's result: itself, its first item, or `.logits`. Raises `Refused` if there are none."""
    if isinstance(found, Tensor):
        return found
    logits = getattr(found, "logits", None)
    if logits is None and isinstance(found, Mapping):
        logits = found.get("logits")
    if logits is None and isinstance(found, tuple | list) and found:
        logits = found[0]
    if not isinstance(logits, Tensor):
        raise Refused(
            f"candidate: its call returned {type(found).__name__}: return logits, (logits, loss), or an object with "
            ".logits"
        )
    return logits


def loss_of(found: Any) -> Tensor | None:
    """The loss of a call's result, if it is a scalar tensor: its second item, or `.loss`."""
    loss = getattr(found, "loss", None)
    if loss is None and isinstance(found, tuple | list) and len(found) > 1:
        loss = found[1]
    return loss if isinstance(loss, Tensor) and loss.dim() == 0 else None


def some(names: list[str]) -> str:
    """The first names of a list."""
    shown = ", ".join(map(repr, names[:4]))
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
