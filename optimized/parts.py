"""The fast parts for the commands that both packages share: what a recipe means on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from optimized.builder import build, build_step
from optimized.compilation import CompiledBlocks
from optimized.gpt import GPT
from optimized.recipe import FULL, RUNGS, Recipe
from optimized.settings import Eval, Sample, Train, recipe_of
from optimized.step import TrainingStep
from reference.config import GPTConfig
from reference.parts import Parts
from reference.processes import ALONE, Processes

OF_TRAINING = ("run", "memory", "optimizer", "launch")  # seams


def optimized_parts(options: Any, processes: Processes = ALONE) -> Parts:
    """The parts of the recipe that the options of a command name.

    Raises ValueError for an unknown rung, for several processes where one is enough or where the recipe has no ddp,
    and for a batch that cannot be divided.
    """
    if isinstance(options, Train):
        return for_training(options, processes)
    if processes.world > 1:
        command = type(options).__name__.lower()
        raise ValueError(f"{command} takes one process, and {processes.world} were started: run it without torchrun")
    return for_using(options) if isinstance(options, (Sample, Eval)) else parts_of(lambda device, dtype: Recipe())


def for_training(options: Train, processes: Processes) -> Parts:
    """The recipe as it is asked for: what cannot be is refused."""
    options.check()
    recipe = options.switched(recipe_of(options.recipe))
    if processes.world == 1:
        recipe = recipe.without("ddp")  # which changes nothing then
    elif "ddp" not in recipe:
        raise ValueError(
            f"{processes.world} processes and a recipe without ddp: switch it on by --with ddp, or start one process"
        )
    check_shares(options.batch_size, processes.world, options.micro_batch)
    return parts_of(lambda device, dtype: recipe, options.micro_batch, processes, summary=described(recipe))


def for_using(options: Sample | Eval) -> Parts:
    """The recipe that is asked for; if none is, all that the device and the precision of the weights have."""

    def recipe(device: str, dtype: str) -> Recipe:
        base = FULL.possible(device, dtype) if options.recipe is None else recipe_of(options.recipe)
        chosen = options.switched(base)
        # What serves training changes nothing here, but that compile makes a large model write faster in bfloat16, once
        # its code is there. That takes longer than a short text: whoever writes long ones asks for it.
        needless = [name for name in chosen.rungs if RUNGS[name].seam in OF_TRAINING]
        return chosen.without(*(name for name in needless if name not in options.with_rungs))

    options.switched(recipe_of(options.recipe or "full"))  # complains before the weights are read
    return parts_of(recipe)


def parts_of(
    recipe: Callable[[str, str], Recipe],
    micro_batch: int | None = None,
    processes: Processes = ALONE,
    summary: str = "",
) -> Parts:
    """The parts of a recipe, which is a function of the device ("cuda") and of the weights' precision ("float32")."""

    def build_model(
        config: GPTConfig, state_dict: dict[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        return build(config, recipe(*names(device, dtype)), state_dict, device, dtype)

    def step(
        model: nn.Module,
        learning_rate: float | Callable[[int], float] = 3e-4,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        clip: float = 1.0,
    ) -> TrainingStep:
        weight = next(model.parameters())
        own = recipe(*names(weight.device, weight.dtype))
        return build_step(model, own, learning_rate, weight_decay, betas, clip, micro_batch)

    return Parts("optimized", build_model, step, stream, processes, summary, remark)


def names(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Device and precision as recipes call them."""
    return device.type, str(dtype).removeprefix("torch.")


def stream(model: GPT, *arguments: Any) -> Iterator[Tensor]:
    """As `reference.sampling.stream`; the model's recipe says how."""
    return model.stream(model, *arguments)


def described(recipe: Recipe) -> str:
    """A recipe for people: "sdpa, compile"; "plain" if no rung is on."""
    return ", ".join(name for name in RUNGS if name in recipe) or "plain"


def remark(model: nn.Module) -> str:
    """What compiling took; nothing where nothing was compiled."""
    if isinstance(model, GPT) and isinstance(model.run, CompiledBlocks) and model.run.graphs:
        graphs = model.run.graphs
        return f"Compiling took {model.run.seconds:.1f} seconds of that, for {graphs} graph{'s' if graphs > 1 else ''}."
    return ""


def check_shares(batch_size: int, world: int, micro_batch: int | None) -> None:
    """Raise a ValueError unless the processes can share a batch equally, in equal micro-batches."""
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
