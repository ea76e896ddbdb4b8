"""Who is compared: one table, a row for each.

To add a contender, write a function that builds it and add its row to `CONTENDERS`; everything else reads the table.
What it builds follows the protocol of this project: `model(ids) -> logits`, `model.loss(ids, targets) -> scalar`, and a
state dict in the canonical layout, by which it is proven before it is timed.

The rungs of `optimized` are contenders by their names: PLAIN with that rung. What is not part of a forward pass, a
training step or a generated text is not here (ddp), nor what only CUDA has (tf32).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import optimized
from bench.observation import BuildStep
from optimized import FULL, PLAIN, RUNGS, Recipe, only, upto
from reference import GPT, GPTConfig, build_step, generate

Weights = dict[str, Tensor]
Build = Callable[[GPTConfig, Weights | None, torch.device, torch.dtype], nn.Module]
Generate = Callable[[Any, Tensor, int], Tensor]


def greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """The readable way: the whole text again for each token."""
    return generate(model, ids, new, temperature=0.0)


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    description: str
    build: Build  # from (config, canonical weights or None for its own, device, dtype of the weights)
    build_step: BuildStep  # a whole training step of that model: forward, backward, clip at 1.0, AdamW
    # from (model in eval mode, prompt (B, T), n): the prompt and the n most probable tokens after it, (B, T + n)
    generate: Generate = greedy
    build_bfloat16: Build | None = None  # computing in bfloat16 over float32 weights; None for `build` under autocast
    rounds: bool = False  # computes in bfloat16 even where float32 is asked for: that is what it is
    module: str | None = None  # to be imported before it is built, and where it may be missing


def build_reference(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """This project's readable GPT."""
    return loaded(GPT(config), weights, device, dtype)


def build_huggingface(attention: str) -> Build:
    """Hugging Face's GPT-2 with one of its kinds of attention, "eager" or "sdpa"."""

    def build(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from bench.huggingface import HuggingFaceGPT

        return loaded(HuggingFaceGPT(config, attention), weights, device, dtype)

    return build


def loaded(model: nn.Module, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model moved to its device and precision, with the weights if there are any."""
    model = model.to(device=device, dtype=dtype)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def build_compiled_huggingface(
    config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The same with sdpa and the whole model compiled."""
    from bench.huggingface import HuggingFaceGPT

    model = HuggingFaceGPT(config, "sdpa")
    model.compile_forward()
    return loaded(model, weights, device, dtype)


def library_step(model: nn.Module, fused: bool = False, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step by `torch.optim.AdamW` and `clip_grad_norm_`, for models of transformers."""
    from bench.library_step import build_library_step

    return build_library_step(model, fused=fused, **settings)


def library_greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """transformers' own, with its cache."""
    from bench.huggingface import greedy

    return greedy(model, ids, new)


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


CONTENDERS: dict[str, Contender] = {
    "reference": Contender("the readable GPT of this project", build_reference, build_step),
    "huggingface-eager": Contender(
        "transformers' GPT2LMHeadModel, explicit attention, torch's AdamW",
        build_huggingface("eager"),
        library_step,
        library_greedy,
        module="bench.huggingface",
    ),
    "huggingface-sdpa": Contender(
        "transformers' GPT2LMHeadModel, torch's fused attention and AdamW",
        build_huggingface("sdpa"),
        library_step,
        library_greedy,
        module="bench.huggingface",
    ),
    "huggingface-best": Contender(
        "transformers' GPT2LMHeadModel, sdpa, bfloat16, compiled, torch's fused AdamW",
        build_compiled_huggingface,
        partial(library_step, fused=True),
        library_greedy,
        rounds=True,
        module="bench.huggingface",
    ),
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
PRICED = tuple(name for name in RUNGS if name in FULL and name in CONTENDERS)
LADDER: dict[str, Contender] = {
    **{f"without-{name}": of_recipe(FULL.without(name), f"full without {name}") for name in PRICED},
    **{f"upto-{name}": of_recipe(upto(name), f"the rungs up to {name}") for name in PRICED},
}


def find(name: str) -> Contender:
    """The contender of a name, in the table or of the ladder."""
    return CONTENDERS[name] if name in CONTENDERS else LADDER[name]


USUAL = ("reference", "huggingface-eager", "huggingface-sdpa", "full")  # takes part if nobody is named
ALL = "all"  # stands for everybody


class Autocast(nn.Module):
    """A float32 model that computes in bfloat16 where `torch.autocast` thinks it safe; the weights stay float32.

    The context is opened for each call and closed before the backward pass. Left open over several steps it would go
    on using the bfloat16 copies of weights that the optimizer has changed meanwhile.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.kind = model, device.type

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V), bfloat16."""
        with torch.autocast(self.kind, torch.bfloat16):
            logits: Tensor = self.model(ids)
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, a scalar."""
        with torch.autocast(self.kind, torch.bfloat16):
            loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return loss

    @property
    def config(self) -> Any:
        """That of the model itself."""
        return self.model.config

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the model itself."""
        return self.model.state_dict(*args, **kwargs)


def build_in(precision: str, name: str, config: GPTConfig, weights: Weights | None, device: torch.device) -> nn.Module:
    """A contender by name, computing in a precision: float64, float32, or bfloat16 over float32 weights."""
    contender = find(name)
    dtype = torch.float64 if precision == "float64" else torch.float32
    if precision != "bfloat16":
        return contender.build(config, weights, device, dtype)
    if contender.build_bfloat16 is not None:
        return contender.build_bfloat16(config, weights, device, dtype)
    return Autocast(contender.build(config, weights, device, dtype), device)


def own_precision(precision: str, name: str) -> str:
    """What a contender computes in when a precision is asked of all: some round by nature, and do in float32 too."""
    return "bfloat16" if precision == "float32" and find(name).rounds else precision


def chosen(names: Sequence[str]) -> list[str]:
    """The names that a user asks for; a ValueError for one that is unknown or there twice."""
    for number, name in enumerate(names):
        if name not in (*CONTENDERS, ALL):
            raise ValueError(f"unknown contender {name!r}: give some of {', '.join(CONTENDERS)}, or {ALL}")
        if name in names[:number]:
            raise ValueError(f"contender {name!r} is named twice: give each once")
    return list(CONTENDERS if ALL in names else names or USUAL)


def import_what_is_needed(name: str) -> None:
    """Import a contender's module; a ValueError that says what to install where it cannot be."""
    module = find(name).module
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{name!r} needs the package {error.name!r}, which is not installed: pip install {error.name}"
        ) from None
