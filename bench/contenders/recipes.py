"""The fast GPT as contenders: the best recipe, PLAIN, each rung alone, FULL, and the recipes of the ablation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import optimized
from bench.contenders.contender import Contender, Weights
from optimized import FULL, PLAIN, RUNGS, Recipe, best, only
from reference import GPTConfig

RecipeFor = Callable[[GPTConfig, torch.device], Recipe]  # chooses a recipe by shape and device


def best_here(config: GPTConfig, device: torch.device) -> Recipe:
    """The rungs that pay at a shape on a device."""
    return best(str(device), "float32", config)


def fixed(recipe: Recipe) -> RecipeFor:
    """The same recipe for every shape and device."""
    return lambda config, device: recipe


def of_recipe(recipe: RecipeFor, description: str) -> Contender:
    """The fast GPT of a recipe; in float64 and float32 without bf16."""

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return optimized.build(config, recipe(config, device).without("bf16"), weights, device, dtype)

    def build_bfloat16(
        config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        return optimized.build(config, recipe(config, device).plus("bf16"), weights, device, dtype)

    def step(model: nn.Module, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return optimized.build_step(model, None, **settings)

    def write(model: Any, ids: Tensor, new: int) -> Tensor:
        return optimized.generate(model, ids, new, temperature=0.0)

    def uses_bfloat16(config: GPTConfig, device: torch.device) -> bool:
        return "bf16" in recipe(config, device)

    return Contender(description, build, step, write, build_bfloat16, uses_bfloat16=uses_bfloat16)


ROWS: dict[str, Contender] = {
    "optimized": of_recipe(best_here, "the fast GPT of this project, with the rungs that pay on this device"),
    "plain": of_recipe(fixed(PLAIN), "optimized without any rung"),
    **{
        name: of_recipe(fixed(only(name)), f"{name}: {rung.claim}")
        for name, rung in RUNGS.items()
        if name not in ("ddp", "tf32")
    },
    "full": of_recipe(fixed(FULL), "optimized with all rungs"),
    "full-float32": of_recipe(fixed(FULL.without("bf16")), "optimized with all rungs but bf16"),
}
# The rungs of the ablation: alone on PLAIN (a row above), added to or left out of the device's best recipe, and
# cumulative in ladder order. The last two are in LADDER, not in the table, as users do not name them.
ABLATED = tuple(name for name in RUNGS if name in FULL and name in ROWS)


def best_with(name: str) -> RecipeFor:
    """The best recipe with a rung."""
    return lambda config, device: best_here(config, device).plus(name)


def best_without(name: str) -> RecipeFor:
    """The best recipe without a rung."""
    return lambda config, device: best_here(config, device).without(name)


def best_upto(name: str) -> RecipeFor:
    """The best recipe's rungs before this one, and this one, even if the best recipe lacks it."""
    before = list(RUNGS)[: list(RUNGS).index(name)]
    return lambda config, device: only(*(rung for rung in before if rung in best_here(config, device)), name)


LADDER: dict[str, Contender] = {
    **{f"with-{name}": of_recipe(best_with(name), f"optimized with {name}") for name in ABLATED},
    **{f"without-{name}": of_recipe(best_without(name), f"optimized without {name}") for name in ABLATED},
    **{f"upto-{name}": of_recipe(best_upto(name), f"the rungs up to {name}") for name in ABLATED},
}
