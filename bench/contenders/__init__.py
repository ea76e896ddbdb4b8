"""The models that are compared: a table with a row for each, and the proof that each must pass.

To add a contender, write a file with its rows and add them to `CONTENDERS`; all other code reads the table. A row
builds a model with this project's interface: `model(ids) -> logits`, `model.loss(ids, targets) -> scalar`, and a state
dict in the canonical layout, which the proof needs. For another library's GPT-2, a file with the functions listed in
`bench.contenders.library` is enough.

A rung's name is the contender PLAIN with that rung. Not here: ddp, which needs several processes, and tf32, which needs
CUDA.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

import torch
from torch import nn

from bench.contenders import huggingface, recipes
from bench.contenders.autocast import Autocast
from bench.contenders.contender import Build, Contender, Generate, Weights, greedy, loaded
from bench.contenders.library import of_library
from bench.contenders.recipes import ABLATED, LADDER, of_recipe
from reference import GPT, GPTConfig, build_step

__all__ = [
    "ABLATED",
    "ALL",
    "CONTENDERS",
    "LADDER",
    "USUAL",
    "Autocast",
    "Build",
    "Contender",
    "Generate",
    "Weights",
    "able",
    "build_in",
    "build_reference",
    "chosen",
    "find",
    "greedy",
    "import_what_is_needed",
    "loaded",
    "missing",
    "of_library",
    "of_recipe",
    "own_precision",
]


def build_reference(config: GPTConfig, weights: Weights | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """This project's readable GPT."""
    return loaded(GPT(config), weights, device, dtype)


CONTENDERS: dict[str, Contender] = {
    "reference": Contender("the readable GPT of this project", build_reference, build_step),
    **huggingface.ROWS,
    "x-transformers": of_library(
        f"{__name__}.xtransformers",
        "x-transformers' decoder with GPT-2's options, torch's fused attention and AdamW",
        needs={"x_transformers": "x-transformers"},
    ),
    "keras-hub": of_library(
        f"{__name__}.kerashub",
        "keras-hub's GPT2CausalLM on torch, its fused attention with a mask of numbers, and AdamW",
        # without TensorFlow, which keras-hub requires and this code does not use
        needs={"keras": "keras", "keras_hub": "--no-deps keras-hub"},
        keeps_policy=True,
    ),
    **recipes.ROWS,
}

USUAL = ("reference", "huggingface-sdpa", "optimized")  # the contenders if none is named
ALL = "all"  # stands for every contender whose packages are installed


def find(name: str) -> Contender:
    """A contender by name, from the table or the ladder."""
    return CONTENDERS[name] if name in CONTENDERS else LADDER[name]


def build_in(precision: str, name: str, config: GPTConfig, weights: Weights | None, device: torch.device) -> nn.Module:
    """Build a contender by name in a precision: float64, float32, or bfloat16 over float32 weights."""
    contender = find(name)
    dtype = torch.float64 if precision == "float64" else torch.float32
    if precision != "bfloat16":
        return contender.build(config, weights, device, dtype)
    if contender.build_bfloat16 is not None:
        return contender.build_bfloat16(config, weights, device, dtype)
    return Autocast(contender.build(config, weights, device, dtype), device)


def own_precision(precision: str, name: str, config: GPTConfig, device: torch.device) -> str:
    """The precision of a contender when all are to use `precision`: some compute in bfloat16 even for float32."""
    return "bfloat16" if precision == "float32" and find(name).uses_bfloat16(config, device) else precision


def chosen(names: Sequence[str]) -> list[str]:
    """The contenders that a user names. Raises ValueError for an unknown or repeated name."""
    for number, name in enumerate(names):
        if name not in (*CONTENDERS, ALL):
            raise ValueError(f"unknown contender {name!r}: give some of {', '.join(CONTENDERS)}, or {ALL}")
        if name in names[:number]:
            raise ValueError(f"contender {name!r} is named twice: give each once")
    return list(CONTENDERS if ALL in names else names or USUAL)


def missing(name: str, precision: str = "float32") -> str | None:
    """Why a contender cannot run, in one line: a package to install, or the precision; None if it can."""
    if precision == "float64" and not find(name).float64:
        return f"{name!r} cannot compute in float64: give --precision float32"
    for package, install in find(name).needs.items():
        if importlib.util.find_spec(package) is None:
            return f"{name!r} needs the package {package!r}, which is not installed: pip install {install}"
    return None


def able(names: Sequence[str], precision: str = "float32") -> tuple[list[str], list[str]]:
    """The contenders that can run here, and a line for each other one."""
    lines = {name: missing(name, precision) for name in names}
    return [name for name in names if lines[name] is None], [f"{line}: left out" for line in lines.values() if line]


def import_what_is_needed(name: str, precision: str = "float32") -> None:
    """Import a contender's module. Raises ValueError, one line: the package to install, or another precision."""
    line = missing(name, precision)
    if line is not None:
        raise ValueError(line)
    module = find(name).module
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{name!r} needs the package {error.name!r}, which is not installed: pip install {error.name}"
        ) from None
