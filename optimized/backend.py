"""The fast model as a backend of the shared commands: what a recipe means on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from optimized.builder import build, build_step, name_of
from optimized.compilation import CompiledBlocks
from optimized.gpt import GPT
from optimized.recipe import FULL, PLAIN, RUNGS, Recipe, left_out
from optimized.settings import BEST, Eval, RecipeFor, Sample, Train, recipe_of
from reference.cli.backend import Backend
from reference.config import GPTConfig
from reference.training.processes import ALONE, Processes

OF_TRAINING = ("compilation", "memory", "optimizer", "distributed")  # slots that only training needs


def optimized_backend(options: Any, processes: Processes = ALONE) -> Backend:
    """The backend for the recipe that a command's options name.

    Raises ValueError for an unknown rung, for several processes without ddp or in a command that takes one, and for a
    batch that the processes cannot divide equally.
    """
    if isinstance(options, Train):
        return for_training(options, processes)
    if processes.world > 1:
        command = type(options).__name__.lower()
        raise ValueError(f"{command} takes one process, and {processes.world} were started: run it without torchrun")
    if isinstance(options, (Sample, Eval)):
        return for_using(options)
    return backend_of(lambda device, dtype, config: PLAIN)


def for_training(options: Train, processes: Processes) -> Backend:
    """The backend for training, with the recipe exactly as given; ValueError if that is impossible."""
    options.check()
    chosen = chooser(options)
    if processes.world > 1 and "ddp" not in options.switched(PLAIN if options.recipe == "plain" else FULL):
        raise ValueError(
            f"{processes.world} processes and a recipe without ddp: switch it on by --with ddp, or start one process"
        )
    check_shares(options.batch_size, processes.world, options.micro_batch)

    def recipe(device: str, dtype: str, config: GPTConfig) -> Recipe:
        found = chosen(device, dtype, config)
        return found.without("ddp") if processes.world == 1 else found  # has no effect then

    return backend_of(recipe, options, options.micro_batch, processes)


def for_using(options: Sample | Eval) -> Backend:
    """The backend for inference, with the given recipe without the rungs that only training needs."""
    chosen = chooser(options)

    def recipe(device: str, dtype: str, config: GPTConfig) -> Recipe:
        found = chosen(device, dtype, config)
        # One exception: compile makes a large model generate faster in bfloat16. Compiling takes longer than generating
        # a short text, so it is on only if given by --with.
        needless = [name for name in found.rungs if RUNGS[name].slot in OF_TRAINING]
        return found.without(*(name for name in needless if name not in options.with_rungs))

    return backend_of(recipe, options)


def chooser(options: Train | Sample | Eval) -> RecipeFor:
    """The options' recipe as a function of device, dtype and shape; raises ValueError for unknown names now."""
    named = recipe_of(options.recipe)
    options.switched(FULL)
    return lambda device, dtype, config: options.switched(named(device, dtype, config))


def backend_of(
    recipe: RecipeFor,
    options: Train | Sample | Eval | None = None,
    micro_batch: int | None = None,
    processes: Processes = ALONE,
) -> Backend:
    """The backend for a recipe, which is a function of device, dtype of the weights and shape."""

    def build_model(
        config: GPTConfig, state_dict: dict[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        return build(config, recipe(str(device), name_of(dtype), config), state_dict, device, dtype)

    def summary(model: nn.Module) -> list[str]:
        assert isinstance(model, GPT)
        return [f"recipe {described(model.recipe)}", *remarks_on(model, options)]

    return Backend(
        "optimized",
        build_model,
        partial(build_step, micro_batch=micro_batch),
        stream,
        processes,
        precision,
        summary,
        partial(remarks_on, options=options),
        remark,
    )


def precision(model: nn.Module) -> str:
    """The precision of a model's products and weights, for people."""
    assert isinstance(model, GPT)
    weights = name_of(model.wpe.weight.dtype)
    if "bf16" in model.recipe:
        return f"bfloat16 products of {weights} weights"
    return f"TF32 products of {weights} weights" if "tf32" in model.recipe else weights


def remarks_on(model: nn.Module, options: Train | Sample | Eval | None) -> list[str]:
    """One line with the rungs that the best recipe leaves out here, and why; empty for other recipes."""
    assert isinstance(model, GPT)
    if options is None or options.recipe != BEST:
        return []
    weight = model.wpe.weight
    found = left_out(str(weight.device), name_of(weight.dtype), model.config)
    of_training = isinstance(options, Train)
    told = [
        f"{name} ({why})"
        for name, why in found.items()
        if name not in model.recipe and (of_training or RUNGS[name].slot not in OF_TRAINING)
    ]
    return [f"left out: {', '.join(told)}"] if told else []


def stream(model: GPT, *arguments: Any) -> Iterator[Tensor]:
    """As `reference.sampling.stream`, in the way of the model's recipe."""
    return model.stream(model, *arguments)


def described(recipe: Recipe) -> str:
    """A recipe for people: "sdpa, compile", or "plain" without rungs."""
    return ", ".join(name for name in RUNGS if name in recipe) or "plain"


def remark(model: nn.Module) -> str:
    """A sentence with the compile time; empty if nothing was compiled."""
    if isinstance(model, GPT) and isinstance(model.run, CompiledBlocks) and model.run.graphs:
        graphs = model.run.graphs
        return f"Compiling took {model.run.seconds:.1f} seconds of that, for {graphs} graph{'s' if graphs > 1 else ''}."
    return ""


def check_shares(batch_size: int, world: int, micro_batch: int | None) -> None:
    """Raise a ValueError unless processes and micro-batches divide a batch equally."""
    if batch_size % world:
        raise ValueError(
            f"--batch-size {batch_size} for {world} processes: cannot be shared equally; give a multiple of {world}, "
            "or start another number of processes"
        )
    share = batch_size // world
    if micro_batch is not None and share % micro_batch:
        raise ValueError(
            f"--micro-batch {micro_batch}: does not divide the {share} sequences of each process (--batch-size "
            f"{batch_size}, {world} process{'es' if world > 1 else ''}); give a divisor of {share}"
        )
