"""The recipes to prove, made from the table of rungs: a new row is proven everywhere."""

from __future__ import annotations

from functools import cache, partial
from itertools import chain, combinations

import torch
from torch import nn

from bench.contenders import Autocast
from bench.contenders.huggingface_model import HuggingFaceGPT
from bench.contenders.torch_step import build_library_step
from bench.numerics.inputs import random_batch, sharp_state_dict, typical_state_dict
from bench.numerics.outputs import BuildStep, ModelOutputs, collect_outputs
from optimized import FULL, PLAIN, RUNGS, Recipe, build, build_step, only, upto, without
from optimized.gpt import GPT as FastGPT
from reference import GPT, GPTConfig
from reference import build_step as readable_step

CONFIG = GPTConfig(block_size=40, vocab_size=101, n_layer=2, n_head=4, n_embd=48)

# Precisions as the proofs know them: the type of the weights, and the rungs that make products coarser than those.
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32, "tf32": torch.float32}
COARSE = {"float64": (), "float32": (), "bfloat16": ("bf16",), "tf32": ("tf32",)}


def grid(precision: str, device: str = "cpu") -> list[Recipe]:
    """PLAIN, each rung alone, each pair, FULL, FULL without each, each step of the ladder, as far as they can be there.

    In bfloat16 and tf32 those that compute in it, in float64 and float32 those that do not.
    """
    pairs = (only(*names) for names in combinations(RUNGS, 2))
    wanted = chain([PLAIN, FULL], map(only, RUNGS), pairs, map(without, RUNGS), map(upto, RUNGS))
    coarse = {name for names in COARSE.values() for name in names}
    recipes = {}
    for recipe in wanted:
        exact = recipe.without(*(coarse - set(COARSE[precision])))  # FULL in float64 is what of it there can be
        dtype = "float32" if precision in ("bfloat16", "tf32") else precision
        if set(COARSE[precision]) <= set(exact.rungs) and exact == exact.possible(device, dtype):
            recipes[exact] = None
    return list(recipes)


def model_combinations(device: str = "cpu") -> list[Recipe]:
    """Every combination of the rungs inside the model that can be in float64."""
    names = [name for name, rung in RUNGS.items() if rung.in_model and rung.clash(device, "float64") is None]
    return [only(*chosen) for size in range(len(names) + 1) for chosen in combinations(names, size)]


def fast(recipe: Recipe, precision: str, config: GPTConfig = CONFIG, seed: int = 0, device: str = "cpu") -> FastGPT:
    """The model of a recipe in a precision."""
    return build(config, recipe, weights(precision, config, seed), device, DTYPES[precision])


def plain(precision: str, config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """The readable model with the same weights, in float64: the oracle."""
    model = GPT(config).double()
    model.load_state_dict(weights(precision, config, seed))
    return model


def plain_bfloat16(config: GPTConfig = CONFIG, seed: int = 0, device: str = "cpu") -> Autocast:
    """The readable model under autocast: how far off plain code is in bfloat16."""
    model = GPT(config).to(device)
    model.load_state_dict(weights("bfloat16", config, seed))
    return Autocast(model, torch.device(device))


def weights(precision: str, config: GPTConfig, seed: int) -> dict[str, torch.Tensor]:
    """Sharp weights, or the typical ones that bfloat16 is judged on; see bench/contenders/verify.py."""
    if precision in ("bfloat16", "tf32"):
        return typical_state_dict(config, seed)
    return sharp_state_dict(config, seed, torch.float32)


# What each side answers is asked once: every recipe is held against the same oracles, and by several tests.


@cache
def answers_of(recipe: Recipe, precision: str, shape: tuple[int, int] = (3, 33), steps: int = 20) -> ModelOutputs:
    """What a recipe answers to a batch of a shape (B, T)."""
    return answers(fast(recipe, precision), partial(build_step, recipe=recipe), precision, shape, steps)


@cache
def answers_of_the_readable(precision: str, shape: tuple[int, int] = (3, 33), steps: int = 20) -> ModelOutputs:
    """The reference model's outputs in float64."""
    return answers(plain(precision), readable_step, precision, shape, steps)


@cache
def answers_of_plain_bfloat16() -> ModelOutputs:
    """The reference model's outputs under autocast."""
    return answers(plain_bfloat16(), readable_step, "bfloat16", (3, 33), 20)


@cache
def answers_of_hugging_face(precision: str) -> ModelOutputs:
    """What Hugging Face's model answers in float64."""
    theirs = HuggingFaceGPT(CONFIG, draw=False).double()
    theirs.load_state_dict(weights(precision, CONFIG, 0))
    return answers(theirs, build_library_step, precision, (3, 33), 20)


def answers(model: nn.Module, build: BuildStep, precision: str, shape: tuple[int, int], steps: int) -> ModelOutputs:
    """Logits, loss, gradients, the losses of AdamW steps, and how far each weight moved in them."""
    batch = random_batch(CONFIG, *shape)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    rate = 1e-5 if COARSE[precision] else 1e-4  # see bench/contenders/verify.py
    return collect_outputs(model, build, batch, batch, steps, learning_rate=rate, weights=before)
