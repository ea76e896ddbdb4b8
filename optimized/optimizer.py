"""The optimizer slot: AdamW by hand, or torch's in one kernel; both save the canonical layout.

A fused or padded model has other parameters than the reference. Moments are converted like weights, by the state dict's
hooks, so that every package and recipe can resume a run of any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from reference.checkpoints.canonical import from_canonical, to_canonical
from reference.training.adamw import AdamW, check_settings, clip_gradients, decays
from reference.training.defaults import BETAS, EPS, WEIGHT_DECAY

KINDS = ("exp_avg", "exp_avg_sq")


class CanonicalState(ABC):
    """Saves and loads an optimizer in the canonical layout."""

    model: nn.Module
    steps: int

    @abstractmethod
    def moments(self, kind: str) -> dict[str, Tensor]:
        """One kind of moment (exp_avg or exp_avg_sq) by the model's own parameter names; not copies."""

    def state_dict(self) -> dict[str, Tensor]:
        """`step` and two moments for each canonical weight, as `reference.training.adamw.AdamW.state_dict`."""
        return save(self.model, self.steps, {kind: self.moments(kind) for kind in KINDS})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state dict of any recipe; ValueError for a missing, unknown or misshapen entry."""
        self.steps = load(self.model, state, {kind: self.moments(kind) for kind in KINDS})


class CanonicalAdamW(CanonicalState, AdamW):
    """The reference's AdamW for a model whose parameters may be fused or padded."""

    def __init__(
        self, model: nn.Module, weight_decay: float = WEIGHT_DECAY, betas: tuple[float, float] = BETAS
    ) -> None:
        super().__init__(model, weight_decay=weight_decay, betas=betas)
        self.model = model

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to a joint L2 norm of at most `limit`; returns the norm before."""
        return clip_gradients([p.grad for p in self.parameters.values() if p.grad is not None], limit)

    def moments(self, kind: str) -> dict[str, Tensor]:
        return self.exp_avg if kind == "exp_avg" else self.exp_avg_sq


class FusedAdamW(CanonicalState):
    """`torch.optim.AdamW(fused=True)` with the groups, the settings and the state of the reference's."""

    def __init__(
        self, model: nn.Module, weight_decay: float = WEIGHT_DECAY, betas: tuple[float, float] = BETAS
    ) -> None:
        check_settings(weight_decay, betas, eps=EPS)
        self.model, self.steps, self.learning_rate = model, 0, 0.0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = [
            {"params": [p for p in self.parameters.values() if decays(p)], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters.values() if not decays(p)], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=1e-3, betas=betas, eps=EPS, fused=True)
        for parameter in self.parameters.values():  # as the library does at its first step
            self.adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.steps += 1
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate
        self.adamw.step()
        for parameter in self.parameters.values():
            if parameter.grad is None:  # not updated, but its bias correction counts this step
                self.adamw.state[parameter]["step"].fill_(self.steps)
        # The fused kernel does not count its writes. inference_copies.py compares that count to notice new weights.
        torch.autograd.graph.increment_version(self.parameters.values())

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        self.adamw.zero_grad(set_to_none=True)

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to a joint L2 norm of at most `limit`; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), limit)

    def moments(self, kind: str) -> dict[str, Tensor]:
        return {name: self.adamw.state[p][kind] for name, p in self.parameters.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        for parameter in self.parameters.values():
            self.adamw.state[parameter]["step"].fill_(self.steps)


def save(model: nn.Module, steps: int, moments: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state of an optimizer in the canonical layout."""
    state = {"step": torch.tensor(steps)}
    for kind, own in moments.items():
        every = {name: own.get(name) for name, _ in model.named_parameters()}
        state |= {f"{kind}/{name}": tensor for name, tensor in to_canonical(model, every).items()}
    return state


@torch.no_grad()
def load(model: nn.Module, state: dict[str, Tensor], moments: dict[str, dict[str, Tensor]]) -> int:
    """Copy a canonical state into an optimizer's moments; returns its number of steps."""
    if "step" not in state:
        raise ValueError("optimizer state: 'step' is missing for this model")
    if state["step"].shape != ():
        raise ValueError(f"optimizer state: 'step' has shape {tuple(state['step'].shape)}, this model needs ()")
    parts = {
        kind: {n.removeprefix(f"{kind}/"): t for n, t in state.items() if n.startswith(f"{kind}/")} for kind in KINDS
    }
    known = {"step", *(f"{kind}/{name}" for kind in KINDS for name in parts[kind])}
    for name in state.keys() - known:
        raise ValueError(f"optimizer state: {name!r} is unknown to this model")
    translated = {kind: from_canonical(model, parts[kind], f"optimizer state: {kind}/") for kind in KINDS}
    for kind, own in moments.items():  # after all checks, so that an error changes nothing
        for name, tensor in own.items():
            tensor.copy_(translated[kind][name])
    return int(state["step"])
