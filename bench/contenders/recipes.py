"""The fast GPT as a contender: without any rung, with each alone, with all, and with each step of the ladder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import optimized
from bench.contenders.contender import Contender, Weights
from optimized import FULL, PLAIN, RUNGS, Recipe, only, upto
from reference import GPTConfig


def of_recipe(recipe: Recipe, description: str) -> Contender:
    """The fast GPT of a recipe; where it is asked in float64 or float32 it does without its coarser products."""

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return optimized.build(config, recipe.without("bf16"), weights, device, dtype)

    def build_bfloat16(
        config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        return optimized.build(config, recipe.plus("bf16"), weights, device, dtype)

    def step(model: nn.Module, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return optimized.build_step(model, recipe, **settings)

    def write(model: Any, ids: Tensor, new: int) -> Tensor:
        return optimized.generate(model, ids, new, temperature=0.0)

    return Contender(description, build, step, write, build_bfloat16, rounds="bf16" in recipe)


ROWS: dict[str, Contender] = {
    "plain": of_recipe(PLAIN, "optimized without any rung"),
    **{
        name: of_recipe(only(name), f"{name}: {rung.claim}")
        for name, rung in RUNGS.items()
        if name not in ("ddp", "tf32")
    },
    "full": of_recipe(FULL, "optimized with all rungs"),
    "full-float32": of_recipe(FULL.without("bf16"), "optimized with all rungs but bf16"),
}
# The three prices of every rung: alone on PLAIN (a row above), taken out of FULL, and cumulative in ladder order. Apart
# from the table because nobody asks for all of them by name. `upto-` has the rungs of FULL up to this one.
PRICED = tuple(name for name in RUNGS if name in FULL and name in ROWS)
LADDER: dict[str, Contender] = {
    **{f"without-{name}": of_recipe(FULL.without(name), f"full without {name}") for name in PRICED},
    **{f"upto-{name}": of_recipe(upto(name), f"the rungs up to {name}") for name in PRICED},
}
