"""keras-hub's GPT-2 on Keras' torch backend.

Keras chooses its backend at import, by KERAS_BACKEND. This file sets that, so it must be the first to import Keras.
`GPT2Backbone` is GPT-2 as published: LayerNorm with eps 1e-5, tanh GELU, tied head (`ReversibleEmbedding`). Attention
is torch's fused one with a float mask, not `is_causal`. In bfloat16 the head's product stays in float32.

On torch, Keras computes float64 inputs in float32, so it is proven in float32. keras-hub requires TensorFlow and
tensorflow-text, but this code imports neither.

    python -m bench compare --candidate bench.contenders.kerashub --layout bench.contenders.kerashub:layout
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from bench.contenders.contender import Weights
from bench.contenders.library import Place, Places, laid_out
from reference import GPTConfig

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras_hub.models import GPT2Backbone, GPT2CausalLM

POLICIES = {torch.float32: "float32", torch.bfloat16: "mixed_bfloat16"}


class KerasGPT(nn.Module):
    """`GPT2CausalLM` as a torch module; its parameters have the names of Keras' variables.

    Args:
        config: the shape; Keras always has biases
        dtype: float32; or bfloat16 over float32 weights, Keras' mixed_bfloat16
    """

    def __init__(self, config: GPTConfig, dtype: torch.dtype) -> None:
        super().__init__()
        if keras.config.backend() != "torch":
            raise ValueError(
                f"keras-hub: Keras has been imported before, with the backend {keras.config.backend()!r}: it takes its "
                "backend once, so start with KERAS_BACKEND=torch"
            )
        backbone = GPT2Backbone(
            vocabulary_size=config.vocab_size,
            num_layers=config.n_layer,
            num_heads=config.n_head,
            hidden_dim=config.n_embd,
            intermediate_dim=4 * config.n_embd,
            dropout=config.dropout,
            max_sequence_length=config.block_size,
            dtype=POLICIES[dtype],
        )
        model = GPT2CausalLM(backbone, preprocessor=None, dtype=POLICIES[dtype])
        model.compile(sampler="greedy")
        self.own = (model,)  # in a tuple, or torch would register it as a submodule too
        self.variables = nn.ParameterDict({v.path: v.value for v in model.trainable_variables})

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        (model,) = self.own
        with keras.device(str(ids.device)):  # Keras computes on its current device, not where its weights are
            logits: Tensor = model({"token_ids": ids, "padding_mask": torch.ones_like(ids)}, training=self.training)
        return logits


def build(config: GPTConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a `GPT2CausalLM` as a torch module."""
    return KerasGPT(config, dtype)


def places(config: GPTConfig) -> Places:
    """Keras' matrices are (in, out), with a separate axis for the heads in attention."""
    C, H = config.n_embd, config.n_head
    heads = (H, C // H)

    def norm(theirs: str) -> dict[str, Place]:
        return {"weight": Place(f"{theirs}/gamma", (C,)), "bias": Place(f"{theirs}/beta", (C,))}

    def linear(theirs: str, into: tuple[int, ...], out: tuple[int, ...]) -> dict[str, Place]:
        kernel = Place(f"{theirs}/kernel", (*into, *out), transposed=True)
        return {"weight": kernel, "bias": Place(f"{theirs}/bias", out)}

    layers = {"ln_f": norm("layer_norm")}
    for i in range(config.n_layer):
        layer = f"transformer_layer_{i}"
        layers |= {
            f"h.{i}.ln_1": norm(f"{layer}/self_attention_layer_norm"),
            f"h.{i}.ln_2": norm(f"{layer}/feedforward_layer_norm"),
            f"h.{i}.mlp.c_fc": linear(f"{layer}/feedforward_intermediate_dense", (C,), (4 * C,)),
            f"h.{i}.mlp.c_proj": linear(f"{layer}/feedforward_output_dense", (4 * C,), (C,)),
            f"h.{i}.attn.c_proj": linear(f"{layer}/self_attention/attention_output", heads, (C,)),
        }
        for letter, theirs in zip("qkv", ("query", "key", "value"), strict=True):
            layers[f"h.{i}.attn.{letter}_proj"] = linear(f"{layer}/self_attention/{theirs}", (C,), heads)
    found = {
        "wte.weight": Place("token_embedding/embeddings", (config.vocab_size, C)),
        "wpe.weight": Place("position_embedding/embeddings", (config.block_size, C)),
    }
    for ours, both in layers.items():
        found |= {f"{ours}.{kind}": place for kind, place in both.items() if config.bias or kind == "weight"}
    return {name: Place(f"variables.{p.name}", p.shape, p.transposed) for name, p in found.items()}


def layout(weights: Weights, config: GPTConfig) -> Weights:
    """Canonical weights under Keras' names."""
    return laid_out(weights, places(config))


def unlike(config: GPTConfig) -> str:
    """It is the same function as GPT-2."""
    return ""


def write(module: nn.Module, ids: Tensor, new: int) -> Tensor:
    """ids (B, T) -> ids and `new` greedy tokens (B, T + new), by Keras' `generate` with its cache."""
    own: Any = module.own
    (model,) = own
    room = ids.new_zeros(ids.shape[0], new)
    prompt = {
        "token_ids": torch.cat([ids, room], dim=1),
        "padding_mask": torch.cat([torch.ones_like(ids), room], dim=1),
    }
    with keras.device(str(ids.device)):
        text = model.generate(prompt, stop_token_ids=None)
    return torch.as_tensor(text["token_ids"], device=ids.device).long()
