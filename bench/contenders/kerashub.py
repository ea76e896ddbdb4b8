"""keras-hub's GPT-2 on Keras' torch backend.

Keras decides its backend when it is imported, by KERAS_BACKEND; it is set here, and so Keras has to be imported here
first. `GPT2Backbone` is GPT-2 as published: LayerNorm with 1e-5, the tanh GELU, the head tied (`ReversibleEmbedding`
reversed). Attention is torch's fused one with a mask of numbers, not its causal one. In bfloat16 the head's product
stays in float32.

On torch Keras computes in float32 what it is given in float64, so it is proven in float32. It imports neither
TensorFlow nor tensorflow-text for this, although keras-hub requires them.

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
    """`GPT2CausalLM` as a torch module whose parameters have the names of Keras' variables.

    Args:
        config: the shape; Keras' biases are there whether it has some or not
        dtype: float32; or bfloat16 for computing in it over float32 weights, which Keras calls mixed_bfloat16
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
        self.own = (model,)  # in a tuple: a torch module that is found here would be registered a second time
        self.variables = nn.ParameterDict({v.path: v.value for v in model.trainable_variables})

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        (model,) = self.own
        with keras.device(str(ids.device)):  # Keras computes where it is told to, not where its weights are
            logits: Tensor = model({"token_ids": ids, "padding_mask": torch.ones_like(ids)}, training=self.training)
        return logits


def build(config: GPTConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A `GPT2CausalLM` as a torch module."""
    return KerasGPT(config, dtype)


def places(config: GPTConfig) -> Places:
    """Keras' matrices are (in, out), those of attention with the heads apart."""
    C, H = config.n_embd, config.n_head
    heads = (H, C // H)

    def norm(theirs: str) -> dict[str, Place]:
        return {"weight": Place(f"{theirs}/gamma", (C,)), "bias": Place(f"{theirs}/beta", (C,))}

    def linear(theirs: str, into: tuple[int, ...], out: tuple[int, ...]) -> dict[str, Place]:
        kernel = Place(f"{theirs}/kernel", (*into, *out), transposed=True)
        return {"weight": kernel, "bias": Place(f"{theirs}/bias", out)}

    parts = {"ln_f": norm("layer_norm")}
    for i in range(config.n_layer):
        layer = f"transformer_layer_{i}"
        parts |= {
            f"h.{i}.ln_1": norm(f"{layer}/self_attention_layer_norm"),
            f"h.{i}.ln_2": norm(f"{layer}/feedforward_layer_norm"),
            f"h.{i}.mlp.c_fc": linear(f"{layer}/feedforward_intermediate_dense", (C,), (4 * C,)),
            f"h.{i}.mlp.c_proj": linear(f"{layer}/feedforward_output_dense", (4 * C,), (C,)),
            f"h.{i}.attn.c_proj": linear(f"{layer}/self_attention/attention_output", heads, (C,)),
        }
        for letter, theirs in zip("qkv", ("query", "key", "value"), strict=True):
            parts[f"h.{i}.attn.{letter}_proj"] = linear(f"{layer}/self_attention/{theirs}", (C,), heads)
    found = {
        "wte.weight": Place("token_embedding/embeddings", (config.vocab_size, C)),
        "wpe.weight": Place("position_embedding/embeddings", (config.block_size, C)),
    }
    for ours, both in parts.items():
        found |= {f"{ours}.{kind}": place for kind, place in both.items() if config.bias or kind == "weight"}
    return {name: Place(f"variables.{p.name}", p.shape, p.transposed) for name, p in found.items()}


def layout(weights: Weights, config: GPTConfig) -> Weights:
    """Canonical weights by its names."""
    return laid_out(weights, places(config))


def unlike(config: GPTConfig) -> str:
    """It is GPT-2."""
    return ""


def write(module: nn.Module, ids: Tensor, new: int) -> Tensor:
    """ids (B, T) and `new` tokens after them, by its own `generate` with its cache: (B, T + new)."""
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
