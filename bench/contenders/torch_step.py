"""Loss and training step by torch's own cross-entropy, AdamW and clipping, for a contender."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference.training.defaults import BETAS, CLIP, EPS, LEARNING_RATE, WEIGHT_DECAY


def library_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, T, V) over targets (B, T) other than -1, by torch, in at least float32."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class LibraryStep:
    """A training step of torch's AdamW and clipping; made by `build_library_step`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: float | Callable[[int], float],
        clip: float,
    ) -> None:
        self.model, self.optimizer, self.rate, self.clip = model, optimizer, rate, clip
        self.steps = 0
        self.gradient_norm = torch.tensor(0.0)

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Train on ids and targets, both (B, T) int64; returns the loss before the update, a scalar."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps) if callable(self.rate) else self.rate
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach()


def decays_by_name(name: str) -> bool:
    """Whether a parameter decays: all but biases and norms.

    Decided by name, while the reference decides by dimension: a shared rule could be wrong unnoticed.
    """
    return not (name.endswith("bias") or "ln_" in name)


def build_library_step(
    model: nn.Module,
    learning_rate: float | Callable[[int], float] = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    betas: tuple[float, float] = BETAS,
    clip: float = CLIP,
    fused: bool = False,
    decays: Callable[[str], bool] = decays_by_name,
) -> LibraryStep:
    """The step that `reference.build_step` writes by hand, from `torch.optim.AdamW` and `clip_grad_norm_`.

    Args:
        model, learning_rate, weight_decay, betas, clip: as for `reference.build_step`
        fused: whether AdamW is torch's fused kernel
        decays: whether a parameter decays, by its name in `model.named_parameters()`
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if decays(name)]
    others = [p for name, p in trained if not decays(name)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=betas, eps=EPS, fused=fused)
    return LibraryStep(model, optimizer, learning_rate, clip)
