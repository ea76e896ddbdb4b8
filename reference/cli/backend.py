"""Backend: what a package supplies to the commands that both packages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reference.config import GPTConfig
from reference.gpt import GPT
from reference.sampling import stream
from reference.training.loop import Step
from reference.training.processes import ALONE, Processes
from reference.training.step import build_step


class Optimizer(Protocol):
    """Moments and step count, in and out in the canonical layout of adamw.py."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimizingStep(Step, Protocol):
    """A training step whose optimizer can be saved and loaded."""

    @property
    def optimizer(self) -> Optimizer: ...


class BuildStep(Protocol):
    """`reference.build_step`, or one with its arguments."""

    def __call__(
        self,
        model: nn.Module,
        *,
        learning_rate: float | Callable[[int], float] = ...,
        weight_decay: float = ...,
        betas: tuple[float, float] = ...,
        clip: float = ...,
    ) -> OptimizingStep: ...


@dataclass(frozen=True)
class Backend:
    """A package's implementations for one command: all that the commands need of a package."""

    package: str  # "reference": recorded in checkpoints
    # a model of this shape with these canonical weights, on this device in this precision
    build_model: Callable[[GPTConfig, dict[str, Tensor], torch.device, torch.dtype], nn.Module]
    build_step: BuildStep
    # as reference.sampling.stream
    stream: Callable[..., Iterator[Tensor]]
    processes: Processes = ALONE  # of the training run
    precision: Callable[[nn.Module], str] = lambda model: precision_of_weights(model)  # of products, for people
    summary: Callable[[nn.Module], Sequence[str]] = lambda model: ()  # lines on its recipe, at the start of a run
    notes: Callable[[nn.Module], Sequence[str]] = lambda model: ()  # lines that a user should know
    remark: Callable[[nn.Module], str] = lambda model: ""  # a sentence at the end of a run
    program: str = ""  # as typed by the user, before the command; set by `reference.cli.main`


def build_model(
    config: GPTConfig, state_dict: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The readable model with the given weights."""
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = GPT(config).to(device, dtype)
    model.load_state_dict(state_dict)
    return model


def precision_of_weights(model: nn.Module) -> str:
    """ "float32" """
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def reference_backend(options: Any) -> Backend:
    """The readable model as a backend; the same for all options."""
    return Backend("reference", build_model, build_step, stream)
