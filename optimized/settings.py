"""Options of `python -m optimized` beyond those of `python -m reference`: the recipe. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from optimized.recipe import FULL, PLAIN, RUNGS, Recipe, best
from reference.cli.options import Eval as ReferenceEval
from reference.cli.options import Sample as ReferenceSample
from reference.cli.options import Train as ReferenceTrain
from reference.cli.options import at_least, shown
from reference.config import GPTConfig

BEST = "best"  # the default
# What a recipe's name means on a device ("cuda"), for weights of a precision ("float32"), for a model of a shape.
RecipeFor = Callable[[str, str, GPTConfig], Recipe]
RECIPES: dict[str, RecipeFor] = {
    BEST: best,
    "full": lambda device, dtype, config: FULL,
    "plain": lambda device, dtype, config: PLAIN,
}
NAMES = ", ".join(RUNGS)


@dataclass(frozen=True)
class Rungs:
    """Options that switch single rungs."""

    with_rungs: Annotated[
        tuple[str, ...],
        arg(
            name="with",
            metavar="[RUNG ...]",
            help=f"Rungs to add to the recipe: {NAMES}",
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    without_rungs: Annotated[
        tuple[str, ...],
        arg(
            name="without",
            metavar="[RUNG ...]",
            help="Rungs to remove from the recipe, by the same names",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    def switched(self, recipe: Recipe) -> Recipe:
        """The recipe with these rungs added and removed. ValueError for an unknown rung, or one in both options."""
        for name in self.with_rungs:
            if name in self.without_rungs:
                raise ValueError(
                    f"--with {name} and --without {name}: give one of them (a resumed run has those of its settings; "
                    "--with or --without and no name forgets them)"
                )
        return recipe.plus(*self.with_rungs).without(*self.without_rungs)


def recipe_of(name: str) -> RecipeFor:
    """The recipe of a name, as a function of device, dtype and shape. ValueError for an unknown name."""
    if name not in RECIPES:
        raise ValueError(f"--recipe {name}: give one of {', '.join(RECIPES)}; rungs are switched by --with, --without")
    return RECIPES[name]


@dataclass(frozen=True)
class Train(Rungs, ReferenceTrain):
    """Train a GPT on a text: from scratch, from pretrained weights, or resume a run.

    Data parallel: torchrun --standalone --nproc-per-node N -m paritygpt train ...
    """

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Optimizations: best (all that pay on this device at this size), full (all), plain (none); the next two options
    switch single rungs"""
    micro_batch: Annotated[int | None, shown("INT", "all of a process's share")] = None
    """Sequences per forward pass of a process: fewer save memory; gradients accumulate over the batch"""

    def check(self) -> None:
        """Raise a ValueError for the first invalid value, as far as text and weights do not matter."""
        super().check()
        if self.micro_batch is not None:
            at_least(1, "micro_batch", self.micro_batch)


@dataclass(frozen=True)
class Sample(Rungs, ReferenceSample):
    """Generate text from a trained model, printed token by token.

    --with compile pays only for thousands of tokens of a large model in bf16: compiling takes seconds.
    """

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Optimizations: best (all that pay on this device at this size, but compile), full, or plain"""


@dataclass(frozen=True)
class Eval(Rungs, ReferenceEval):
    """Evaluate a trained model: loss, perplexity and bits on a text's validation split, each token counted once."""

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Optimizations: best (all that pay on this device at this size, but compile), full, or plain"""
