"""Adapt a user's module to the protocol of this project: `model(ids)`, `model.loss`, a canonical state dict.

The module keeps its own names and layout. A layout is a linear map from our state dict to the module's: it maps weights
to the module; its transpose, by autograd, maps gradients back; its inverse maps weights and updates back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.calling import logits_in, logits_of, loss_in, marked, targets_argument
from bench.candidate.layouts import Layout
from bench.formatting import one_line
from bench.user_code.load_function import STOPS
from bench.user_code.refused import place_in_own_code
from reference.checkpoints.canonical import to_canonical
from reference.config import GPTConfig
from reference.training.adamw import AdamW, clip_gradients
from reference.training.defaults import CLIP, WEIGHT_DECAY

Build = Callable[[GPTConfig], Any]
Step = Callable[[Tensor, Tensor], Tensor]
HEAD = "lm_head.weight"  # a layout may return it even if the module has only the tied token table
PREFIX = "transformer."
COMPILED = "_orig_mod."  # torch.compile prefixes a module's names with it


class Candidate(nn.Module):
    """A module with its layout.

    Args:
        module: the result of `build`
        config: of `build`
        layout: canonical state dict -> the module's
        weights: canonical, to load into the module
        around: a context in which each call of the module runs

    Raises ValueError, one line, if the weights do not fit the module.
    """

    def __init__(
        self,
        module: nn.Module,
        config: GPTConfig,
        layout: Layout,
        weights: Mapping[str, Tensor],
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.module, self.config, self.layout, self.around = module, config, layout, around
        self.built_in: list[str] = []  # precisions of its parameters when it was built
        self.targets = targets_argument(module)
        self.with_targets = self.targets is not None  # whether logits are those of a call with targets
        self.last_only: bool | None = None  # whether a call without targets returns one position; None: unknown
        self.has_method = callable(getattr(module, "loss", None))
        self.not_called: str | None = None  # why its method `loss` is not used
        self.ignored: int | None = -1  # the target that its own loss ignores; None if it ignores none
        self.shapes = {name: tensor.shape for name, tensor in weights.items()}
        self.load(weights)
        self.share = self.shares()
        self.hold_constants()

    # Weights in

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load canonical weights into the module."""
        own = self.translated({name: tensor.detach() for name, tensor in weights.items()})
        buffers = {name for name, _ in self.module.named_buffers(remove_duplicate=False)}
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
        except STOPS:
            raise
        except BaseException as error:
            raise ValueError(f"layout: raised {one_line(error)}{place_in_own_code(error)}") from error
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

    def transposed(self, own: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Map tensors from the module's names to canonical names, by the transpose of the layout."""
        with torch.enable_grad():
            inputs = {n: torch.zeros(s, dtype=dtype, requires_grad=True) for n, s in self.shapes.items()}
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
            # of a scalar: given gradients of tensors, torch imports sympy, which takes a second
            products = [(tensor * own[name].detach().to(tensor)).sum() for name, tensor in kept.items()]
            total = torch.stack([product.double() for product in products]).sum()
            found = torch.autograd.grad(total, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    def once(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Drop buffers and the second name of tied tensors."""
        seen, buffers, out = set(), {name for name, _ in self.module.named_buffers(remove_duplicate=False)}, {}
        for name, tensor in self.module.state_dict().items():
            if name in own and name not in buffers and place(tensor) not in seen:
                seen.add(place(tensor))
                out[name] = own[name]
        return out

    def shares(self) -> dict[str, Tensor]:
        """By canonical name, how many copies of each value the module has: 1; 2 for a table that should be tied and is
        not; 0 for a tensor that the layout leaves out."""
        found = self.copies(torch.float32)  # holds whole numbers exactly, in half the time
        whole = all(bool((share == share.round()).all()) for share in found.values())
        return found if whole else self.copies(torch.float64)

    def copies(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """`shares`, counted in a precision."""
        with torch.no_grad():
            ones = {name: torch.ones(shape, dtype=dtype) for name, shape in self.shapes.items()}
            zeros = {name: torch.zeros(shape, dtype=dtype) for name, shape in self.shapes.items()}
            full, empty = self.translated(ones), self.translated(zeros)
        return self.transposed(self.once({name: full[name] - empty[name] for name in full}), dtype)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The weights in the canonical layout, float64; zeros for tensors that the layout leaves out."""
        sums = self.transposed(self.once(self.module.state_dict()))
        return {name: tensor / self.share[name].clamp(min=1e-30) for name, tensor in sums.items()}

    def canonical_gradients(self) -> dict[str, Tensor]:
        """The gradients of the last backward pass, by canonical name; a missing gradient is zero."""
        names = self.once(self.module.state_dict())
        gradients = to_canonical(self.module, {name: p.grad for name, p in self.module.named_parameters()})
        return self.transposed({name: gradients[name] for name in names})

    def hold_constants(self) -> None:
        """Do not train tensors that the layout sets to constants, such as biases if the config has none."""
        ones = {name: torch.ones(shape, requires_grad=True) for name, shape in self.shapes.items()}
        constant = {name for name, tensor in self.translated(dict(ones)).items() if not tensor.requires_grad}
        for name, parameter in self.module.named_parameters():
            if name in constant:
                parameter.requires_grad_(False)

    def build_step(
        self, learning_rate: float, weight_decay: float = WEIGHT_DECAY
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The reference's AdamW over the module, with weight decay on the same weights as in the reference.

        Not torch's: to make one imports its compiler, which takes 2 s.
        """
        ones = {n: torch.full(s, 1.0 if len(s) > 1 else 0.0, dtype=torch.float64) for n, s in self.shapes.items()}
        with torch.no_grad():
            own = {f"module.{name}": bool(tensor.mean() > 0.5) for name, tensor in self.translated(ones).items()}
        optimizer = AdamW(self, learning_rate, weight_decay=0.0)
        decayed = [p for name, p in optimizer.parameters.items() if own.get(name, p.dim() >= 2)]

        def step(ids: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(ids, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients([p.grad for p in optimizer.parameters.values() if p.grad is not None], CLIP)
            with torch.no_grad():
                for parameter in decayed:
                    if parameter.grad is not None:
                        parameter.mul_(1.0 - learning_rate * weight_decay)
            optimizer.step()
            return loss.detach()

        return step

    # The model

    @property
    def has_own_loss(self) -> bool:
        """Whether the module may have a loss; else that of its logits is ours."""
        return self.has_method or self.targets is not None

    def call(self, ids: Tensor, targets: Tensor | None) -> Any:
        """What the module returns for ids (B, T), and targets (B, T) if it takes them."""
        with self.around():
            return self.module(ids) if targets is None else self.module(ids, **{str(self.targets): targets})

    def shape(self, ids: Tensor) -> tuple[int, int, int]:
        """The shape of the logits, (B, T, V)."""
        return ids.shape[0], ids.shape[1], self.config.vocab_size

    def learn_call(self, ids: Tensor) -> None:
        """Learn whether it returns all logits with targets or without, and what it returns without."""
        for way in [True, False] if self.targets is not None else []:
            with suppress(Exception, SystemExit), torch.no_grad():  # the next call says what is wrong
                found = self.call(ids, ids if way else None)
                if logits_in(found, self.shape(ids)) is not None:
                    self.with_targets = way
                    break
        if self.with_targets:
            with suppress(Exception, SystemExit), torch.no_grad():  # it may need targets
                B, T, V = self.shape(ids)
                shape = tuple(self.without_targets(ids).shape)
                self.last_only = True if shape == (B, 1, V) else False if shape == (B, T, V) else None

    def without_targets(self, ids: Tensor) -> Tensor:
        """The logits of a call without targets: (B, T, V), or (B, 1, V) of the last position."""
        found = self.call(ids, None)
        logits = logits_in(found, self.shape(ids))
        return logits_of(found, self.shape(ids[:, :1])) if logits is None else logits

    def learn_loss(self, ids: Tensor, targets: Tensor) -> None:
        """Learn which targets its own loss ignores: -1, else -100 as in torch, else none.

        Tried on the CPU: elsewhere a target that is no token ends the process.
        """
        if not self.has_own_loss:
            return
        own = self.module
        if ids.device.type != "cpu":
            try:
                self.module = copy.deepcopy(own).cpu()
            except Exception:
                self.ignored = None
                return
        try:
            self.try_losses(ids.cpu(), targets.cpu())
        finally:
            self.module = own

    def try_losses(self, ids: Tensor, targets: Tensor) -> None:
        """Set `ignored` to the first number that its loss takes; drop a method `loss` that takes none."""
        for self.ignored in (-1, -100, None):
            try:
                with torch.no_grad():
                    self.loss(ids, targets if self.ignored is not None else targets.clamp(min=0))
            except STOPS:
                raise
            except BaseException as error:
                raised = error
                continue
            return
        if self.has_method:
            self.has_method = False
            self.not_called = f"its loss(ids, targets) raised {one_line(raised)}{place_in_own_code(raised)}"
            self.try_losses(ids, targets)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        return logits_of(self.call(ids, ids if self.with_targets else None), self.shape(ids))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The candidate's own loss, or torch's mean cross-entropy of its logits; targets of -1 are ignored."""
        if self.has_method:
            with self.around():
                loss: Tensor = self.module.loss(ids, marked(targets, self.ignored))  # type: ignore[operator]  # a method
            return loss
        if self.targets is not None:
            found = self.call(ids, marked(targets, self.ignored))
            own = loss_in(found)
            if own is not None:
                return own
        logits = self(ids)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # as the reference does it
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def place(tensor: Tensor) -> tuple[object, ...]:
    """The memory of a tensor: equal for two names of one tied table."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def some(names: list[str]) -> str:
    """The first names of a list."""
    shown = ", ".join(map(repr, names[:4]))
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
