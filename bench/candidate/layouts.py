"""Layouts: functions from the canonical state dict to another GPT-2's state dict.

    canonical   reference.GPT: q, k and v apart, nn.Linear orientation (out, in)
    hf          transformers.GPT2LMHeadModel: one c_attn for q, k and v, Conv1D orientation (in, out)
    nanogpt     nanoGPT's model.py: Hugging Face's names, nn.Linear orientation, no biases where the config has none

A layout may only rename, transpose, split, join and copy tensors, by torch operations: autograd maps gradients and
updates back to the canonical names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from bench.user_code.load_function import load_function
from reference.checkpoints.huggingface import PREFIX, canonical_shapes, check_tensors, hf_shapes, is_conv1d
from reference.config import GPTConfig

Weights = dict[str, Tensor]
Layout = Callable[[Weights, GPTConfig], Weights]


def canonical(state_dict: Weights, config: GPTConfig) -> Weights:
    """The canonical layout itself."""
    return dict(state_dict)


def nanogpt(state_dict: Weights, config: GPTConfig) -> Weights:
    """nanoGPT's `GPT`, the head included."""
    check_tensors(state_dict, canonical_shapes(config), "canonical state dict")
    out = {}
    for name in hf_shapes(config):
        ours = name.removeprefix(PREFIX)
        if name.endswith(".bias") and not config.bias:
            continue
        if "c_attn" in ours:
            out[name] = torch.cat([state_dict[ours.replace("c_attn", f"{letter}_proj")] for letter in "qkv"])
        else:
            out[name] = state_dict[ours]
    return {**out, "lm_head.weight": out[PREFIX + "wte.weight"]}


def hf(state_dict: Weights, config: GPTConfig) -> Weights:
    """`transformers.GPT2LMHeadModel`, the head included; `to_hf` without a copy of each tensor."""
    out = {name: tensor.T if is_conv1d(name) else tensor for name, tensor in nanogpt(state_dict, config).items()}
    for name, shape in hf_shapes(config).items():
        if name not in out:  # a bias, which the config has not
            out[name] = state_dict["ln_f.weight"].new_zeros(shape)
    return out


LAYOUTS: dict[str, Layout] = {"canonical": canonical, "hf": hf, "nanogpt": nanogpt}


def layout_of(wanted: str | Callable[..., Weights]) -> Layout:
    """A layout, by its name, by FILE.py:FUNCTION or MODULE:FUNCTION, or as a function.

    The function takes (state_dict) or (state_dict, config). Raises ValueError, one line, if there is none.
    """
    if isinstance(wanted, str) and wanted in LAYOUTS:
        return LAYOUTS[wanted]
    if isinstance(wanted, str) and ":" not in wanted and not wanted.endswith(".py"):
        raise ValueError(f"unknown layout {wanted!r}: give one of auto, {', '.join(LAYOUTS)}, or FILE.py:FUNCTION")
    function = load_function(wanted, "layout", "layout") if isinstance(wanted, str) else wanted
    try:
        takes_config = len(inspect.signature(function).parameters) >= 2
    except (TypeError, ValueError):  # some built-in callables have no signature
        takes_config = False
    return function if takes_config else lambda state_dict, config: function(state_dict)
