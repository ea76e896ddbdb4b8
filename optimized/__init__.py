"""The fast GPT-2: the function of `reference`, with the optimizations of a recipe. Begin with gpt.py."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimized.builder import build, build_step
    from optimized.generation import generate
    from optimized.recipe import FULL, PLAIN, RUNGS, Recipe, best, only, upto, without

__all__ = ["FULL", "PLAIN", "RUNGS", "Recipe", "best", "build", "build_step", "generate", "only", "upto", "without"]

# Each name's module is imported when the name is first used: torch takes a second or two, and `--help` needs none.
HOMES = {"build": "builder", "build_step": "builder", "generate": "generation"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES.get(name, 'recipe')}"), name)
