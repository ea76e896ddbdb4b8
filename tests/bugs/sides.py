"""The code under test: the reference, or the optimized model with a recipe, behind the same calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import optimized
import reference
from optimized import PLAIN, Recipe, only
from reference import GPTConfig
from reference.cli.backend import build_model


@dataclass(frozen=True)
class Side:
    """One of the two packages, the optimized one with a recipe."""

    recipe: Recipe | None = None  # None is the reference

    def __str__(self) -> str:
        return "reference" if self.recipe is None else f"optimized, {self.recipe}"

    def model(self, weights: dict[str, Tensor], config: GPTConfig, dtype: torch.dtype = torch.float64) -> Any:
        """A model of its own with these weights, in train mode."""
        if self.recipe is None:
            return build_model(config, weights, torch.device("cpu"), dtype)
        return optimized.build(config, self.recipe, weights, dtype=dtype)

    def step(self, model: nn.Module, micro_batch: int | None = None, **settings: Any) -> Any:
        """A training step for that model."""
        if self.recipe is None:
            assert micro_batch is None, "the reference takes its batches whole"
            return reference.build_step(model, **settings)
        return optimized.build_step(model, self.recipe, micro_batch=micro_batch, **settings)

    def generate(self, model: Any, ids: Tensor, new: int, **settings: Any) -> Tensor:
        """The prompt and what follows."""
        if self.recipe is None:
            return reference.generate(model, ids, new, **settings)
        return optimized.generate(model, ids, new, **settings)

    def plus(self, *names: str) -> Side:
        """With some rungs more."""
        assert self.recipe is not None, "the reference has no rungs"
        return Side(self.recipe.plus(*names))


REFERENCE = Side()
OPTIMIZED = Side(PLAIN)


def rungs(*names: str) -> Side:
    """The optimized model with these rungs."""
    return Side(only(*names))
