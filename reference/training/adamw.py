"""AdamW and gradient clipping by hand.

Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2, with the decay scaled by the learning
rate as torch does it. Bias correction as in Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reference.training.defaults import BETAS, EPS, LEARNING_RATE, WEIGHT_DECAY


def decays(parameter: Tensor) -> bool:
    """Matrices and embeddings decay; gains, shifts and biases, all of one dimension, do not."""
    return parameter.dim() >= 2


@torch.no_grad()
def clip_gradients(gradients: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients, in place, so that their joint L2 norm is at most `limit`; returns the norm before.

    Pascanu, Mikolov and Bengio 2013, https://arxiv.org/abs/1211.5063, algorithm 1. The 1e-6 keeps a norm of zero
    from dividing; torch uses the same.
    """
    gradients = list(gradients)
    # per tensor first, then over tensors: the order in which torch rounds
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
    return norm


class AdamW:
    """One AdamW over the named parameters of a model; decay only where `decays` says so.

    Args:
        model: its parameters are updated in place
        learning_rate: a plain attribute, meant to be set before each step by a schedule
        weight_decay: decoupled, on parameters for which `decays` is true
        betas: AdamW's beta1 and beta2, the decay rates of the two moments
        eps: added to the root of the second moment after its bias correction
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float = LEARNING_RATE,
        weight_decay: float = WEIGHT_DECAY,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
    ) -> None:
        check_settings(weight_decay, betas, eps)
        self.learning_rate, self.weight_decay, self.betas, self.eps = learning_rate, weight_decay, betas, eps
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.steps = 0
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.steps += 1
        beta1, beta2 = self.betas
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            gradient, m, v = parameter.grad, self.exp_avg[name], self.exp_avg_sq[name]
            if decays(parameter):
                parameter.mul_(1.0 - self.learning_rate * self.weight_decay)
            m.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
            v.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
            # both start at zero, so early averages are too small by exactly these factors
            m_hat = m / (1.0 - beta1**self.steps)
            v_hat = v / (1.0 - beta2**self.steps)
            parameter.sub_(self.learning_rate * m_hat / (v_hat.sqrt() + self.eps))

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """`step` (int64 scalar) and two moments for each parameter: `exp_avg/NAME`, `exp_avg_sq/NAME`."""
        return {
            "step": torch.tensor(self.steps),
            **{f"exp_avg/{name}": m for name, m in self.exp_avg.items()},
            **{f"exp_avg_sq/{name}": v for name, v in self.exp_avg_sq.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` gave; ValueError for a missing, unknown or misshapen entry."""
        own = self.state_dict()
        for name in sorted(own.keys() ^ state.keys()):
            what = "unknown to" if name in state else "missing for"
            raise ValueError(f"optimizer state: {name!r} is {what} this model")
        for name, tensor in state.items():
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"optimizer state: {name!r} has shape {tuple(tensor.shape)}, "
                    f"this model needs {tuple(own[name].shape)}"
                )
        self.steps = int(state["step"])
        for name in self.parameters:
            self.exp_avg[name].copy_(state[f"exp_avg/{name}"])
            self.exp_avg_sq[name].copy_(state[f"exp_avg_sq/{name}"])


def check_settings(weight_decay: float, betas: tuple[float, float], eps: float) -> None:
    """Raise a ValueError for settings outside the range of AdamW."""
    if not weight_decay >= 0.0:
        raise ValueError(f"weight decay {weight_decay}: give 0 or more")
    for number, beta in enumerate(betas, start=1):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"beta{number} = {beta}: give a number from 0 up to, not including, 1")
    if not eps > 0.0:
        raise ValueError(f"eps = {eps}: give a number above 0")
