"""Hugging Face's GPT-2 state dict <-> ours, on plain tensors.

Two things differ. Hugging Face keeps q, k and v in one matrix `c_attn`, and its `Conv1D` keeps weights as (in, out),
the transpose of `nn.Linear`. Both maps only rename, transpose, split and join. So they are linear and exact, and also
convert gradients and optimizer moments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reference.config import GPTConfig

PREFIX = "transformer."


def canonical_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the canonical layout, in the order of `reference.GPT`."""
    C = config.n_embd
    shapes = shapes_of(config, attention={f"{name}_proj": (C, C) for name in "qkv"}, transposed=False)
    return {name: shape for name, shape in shapes.items() if config.bias or not name.endswith(".bias")}


def hf_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a Hugging Face GPT-2 file, which has biases whatever the config says."""
    C = config.n_embd
    shapes = shapes_of(config, attention={"c_attn": (3 * C, C)}, transposed=True)
    return {PREFIX + name: shape for name, shape in shapes.items()}


def shapes_of(config: GPTConfig, attention: dict[str, tuple[int, int]], transposed: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a GPT-2 with biases, in the order of its layers.

    Args:
        attention: the linear layers from the stream to q, k and v, as (out, in)
        transposed: whether linear weights are kept as (in, out)
    """
    C = config.n_embd
    linears = {
        "attn": {**attention, "c_proj": (C, C)},
        "mlp": {"c_fc": (4 * C, C), "c_proj": (C, 4 * C)},
    }
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (config.vocab_size, C), "wpe.weight": (config.block_size, C)}
    for i in range(config.n_layer):
        for norm, inner in (("ln_1", "attn"), ("ln_2", "mlp")):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
            for name, (rows, columns) in linears[inner].items():
                weight = (columns, rows) if transposed else (rows, columns)
                shapes |= {f"h.{i}.{inner}.{name}.weight": weight, f"h.{i}.{inner}.{name}.bias": (rows,)}
    return shapes | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def to_hf(state_dict: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our tensors in Hugging Face's names and orientation, as `save_pretrained` writes them.

    Args:
        state_dict: canonical, complete and nothing else
        config: the shape it belongs to

    Returns `transformer.*` without `lm_head.weight`, which Hugging Face ties to the token table. A config without
    biases gives biases of zero. A missing, unknown or misshapen tensor is a ValueError that names it.
    """
    check_tensors(state_dict, canonical_shapes(config), "canonical state dict")
    out = {}
    for name, shape in hf_shapes(config).items():
        ours = name.removeprefix(PREFIX)
        if "c_attn" in ours:
            parts = [ours.replace("c_attn", f"{letter}_proj") for letter in "qkv"]
        else:
            parts = [ours]
        if name.endswith(".bias") and not config.bias:
            out[name] = state_dict["ln_f.weight"].new_zeros(shape)
            continue
        joined = torch.cat([state_dict[part] for part in parts])
        out[name] = joined.T.contiguous() if is_conv1d(name) else joined
    return out


def from_hf(state_dict: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Hugging Face's GPT-2 tensors in the canonical layout.

    Args:
        state_dict: of `GPT2LMHeadModel` or of a checkpoint file, with or without the `transformer.` prefix.
            `lm_head.weight` may be there if it equals the token table; the causal-mask buffers of old files
            (`attn.bias`, `attn.masked_bias`) are constants and are left out.
        config: the shape it belongs to

    Returns new tensors. Raises ValueError for a missing, unknown or misshapen tensor, and for a nonzero bias if the
    config has none.
    """
    tensors = {name if is_head(name) else PREFIX + name.removeprefix(PREFIX): t for name, t in state_dict.items()}
    head = tensors.pop("lm_head.weight", None)
    tensors = {name: t for name, t in tensors.items() if not is_mask_buffer(name)}
    check_tensors(tensors, hf_shapes(config), "Hugging Face state dict")
    if head is not None and not torch.equal(head, tensors[PREFIX + "wte.weight"]):
        raise ValueError(
            "Hugging Face state dict: 'lm_head.weight' differs from 'transformer.wte.weight'; "
            "this GPT-2 ties the two, so give a model with tied embeddings"
        )
    out = {}
    for name, tensor in tensors.items():
        ours = name.removeprefix(PREFIX)
        if name.endswith(".bias") and not config.bias:
            if tensor.count_nonzero() != 0:
                raise ValueError(f"Hugging Face state dict: {name!r} is not zero, but the config has bias=False")
            continue
        tensor = tensor.T if is_conv1d(name) else tensor
        if "c_attn" in ours:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[ours.replace("c_attn", f"{letter}_proj")] = part.clone(memory_format=torch.contiguous_format)
        else:
            out[ours] = tensor.clone(memory_format=torch.contiguous_format)
    return {name: out[name] for name in canonical_shapes(config)}


def is_conv1d(name: str) -> bool:
    """Whether Hugging Face keeps this weight as (in, out)."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def is_head(name: str) -> bool:
    """Whether this is the output projection, the one tensor outside `transformer.`."""
    return name.startswith("lm_head.")


def is_mask_buffer(name: str) -> bool:
    """Whether this is a causal mask, which files from before 2023 contain."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


def check_tensors(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], what: str) -> None:
    """Raise a ValueError naming the first tensor that is missing, unknown or misshapen."""
    for name in shapes:
        if name not in tensors:
            raise ValueError(f"{what}: {name!r} is missing")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(f"{what}: {name!r} is unknown; a GPT-2 of this config has no such tensor")
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{what}: {name!r} has shape {tuple(tensor.shape)}, the config needs {shapes[name]}")


# Settings of a Hugging Face config that change the function, each with GPT-2's value, which is the default.
GPT2_SETTINGS: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",  # the tanh form
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def hf_config(config: GPTConfig, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The `config.json` with which transformers opens our weights as a `GPT2LMHeadModel`.

    `bias` is ours: transformers keeps it and ignores it, and `config_from_hf` reads it back.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        **GPT2_SETTINGS,
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": str(dtype).removeprefix("torch."),
        "bias": config.bias,
    }


def config_from_hf(values: dict[str, Any]) -> GPTConfig:
    """The shape that a Hugging Face `config.json` describes.

    Raises ValueError for a model that is no GPT-2: another activation, another eps, untied tables and the like.
    """
    for name, gpt2 in GPT2_SETTINGS.items():
        if values.get(name, gpt2) != gpt2:
            raise ValueError(f"Hugging Face config: {name} = {values[name]!r}, GPT-2 has {gpt2!r}")
    rates = {name: values.get(name, 0.1) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}
    if len(set(rates.values())) != 1:
        raise ValueError(f"Hugging Face config: {rates}, this GPT-2 has one dropout rate for all three")
    for name in ("n_positions", "vocab_size", "n_layer", "n_head", "n_embd"):
        if name not in values:
            raise ValueError(f"Hugging Face config: {name!r} is missing")
    if values.get("n_inner") not in (None, 4 * values["n_embd"]):
        raise ValueError(f"Hugging Face config: n_inner = {values['n_inner']}, GPT-2 has 4 n_embd")
    return GPTConfig(
        block_size=values["n_positions"],
        vocab_size=values["vocab_size"],
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        n_embd=values["n_embd"],
        dropout=rates["embd_pdrop"],
        bias=values.get("bias", True),
    )
