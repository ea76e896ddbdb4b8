"""What `python -m optimized` has to choose beside the options of `python -m reference`: the recipe. No torch here."""

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
    """Rungs that are switched one by one."""

    with_rungs: Annotated[
        tuple[str, ...],
        arg(
            name="with",
            metavar="[RUNG ...]",
            help=f"Rungs to switch on besides: some of {NAMES}",
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    without_rungs: Annotated[
        tuple[str, ...],
        arg(
            name="without",
            metavar="[RUNG ...]",
            help="Rungs to switch off, by the same names",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    def switched(self, recipe: Recipe) -> Recipe:
        """A recipe with these rungs switched; a ValueError for an unknown rung, or one that is switched both ways."""
        for name in self.with_rungs:
            if name in self.without_rungs:
                raise ValueError(
                    f"--with {name} and --without {name}: give one of them (a resumed run has those of its settings; "
                    "--with or --without and no name forgets them)"
                )
        return recipe.plus(*self.with_rungs).without(*self.without_rungs)


def recipe_of(name: str) -> RecipeFor:
    """What a recipe's name on the command line means."""
    if name not in RECIPES:
        raise ValueError(f"--recipe {name}: give one of {', '.join(RECIPES)}; rungs are switched by --with, --without")
    return RECIPES[name]


@dataclass(frozen=True)
class Train(Rungs, ReferenceTrain):
    """Train a GPT on a text: from fresh weights, from published ones, or on from where a run stopped.

    Several processes share a run under torchrun: torchrun --standalone --nproc-per-node N -m paritygpt train ...
    """

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Which optimizations are on: best (those that pay on this device at this size), full (all), plain (none); the next
    two options switch single ones"""
    micro_batch: Annotated[int | None, shown("INT", "all of a process's share")] = None
    """Sequences that a process computes at a time: fewer need less memory, and change no gradient"""

    def check(self) -> None:
        """Raise a ValueError, one line, for the first value that cannot be whatever the text and the weights are."""
        super().check()
        if self.micro_batch is not None:
            at_least(1, "micro_batch", self.micro_batch)


@dataclass(frozen=True)
class Sample(Rungs, ReferenceSample):
    """Let a trained model write: print a prompt and what the model makes of it, token by token.

    --with compile pays for thousands of tokens of a large model in bf16: compiling takes some seconds.
    """

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Which optimizations are on: best (those that pay on this device at this size, less compile), full, or plain"""


@dataclass(frozen=True)
class Eval(Rungs, ReferenceEval):
    """Measure a trained model: loss, perplexity and bits on a text's validation split, every token counted once."""

    recipe: Annotated[str, arg(metavar="NAME")] = BEST
    """Which optimizations are on: best (those that pay on this device at this size, less compile), full, or plain"""
