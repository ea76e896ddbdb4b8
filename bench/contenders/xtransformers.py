"""x-transformers' decoder, set as close to GPT-2 as its options allow.

`ff_custom_activation` gives GPT-2's tanh GELU (the default is the erf one), `norm_add_unit_offset=False` stores the
norms' gains without an offset, `tie_embedding` ties the head. Positions are scaled by dim ** -0.5, which no option
turns off: the attribute is set to 1. Attention is torch's (`attn_flash`), as the explicit one always has its softmax in
float32.

Its attention projections and norms have no biases, and no option adds them. So it is the same function as a GPT-2
without biases, also in float64, but not as the published GPT-2.

    python -m bench compare --no-bias --candidate bench.contenders.xtransformers \\
        --layout bench.contenders.xtransformers:layout
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from bench.contenders.contender import Weights
from bench.contenders.library import Place, Places, laid_out
from reference import GPTConfig


def build(config: GPTConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a `TransformerWrapper` around a `Decoder`."""
    model: Any = TransformerWrapper(
        num_tokens=config.vocab_size,
        max_seq_len=config.block_size,
        emb_dropout=config.dropout,
        tie_embedding=True,
        tie_embedding_scale=1.0,
        attn_layers=Decoder(
            dim=config.n_embd,
            depth=config.n_layer,
            heads=config.n_head,
            attn_dim_head=config.n_embd // config.n_head,
            attn_flash=True,
            attn_dropout=config.dropout,
            attn_sublayer_dropout=config.dropout,
            ff_custom_activation=nn.GELU(approximate="tanh"),
            ff_no_bias=not config.bias,
            ff_sublayer_dropout=config.dropout,
            norm_add_unit_offset=False,
        ),
    )
    model.pos_emb.scale = 1.0
    made: nn.Module = model
    return made


def places(config: GPTConfig) -> Places:
    """Two layers are one block of ours: attention, then the MLP, each after its norm."""
    C = config.n_embd
    found = {
        "wte.weight": Place("token_emb.emb.weight", (config.vocab_size, C)),
        "wpe.weight": Place("pos_emb.emb.weight", (config.block_size, C)),
        "ln_f.weight": Place("attn_layers.final_norm.gamma", (C,)),
    }
    for i in range(config.n_layer):
        attention, mlp = f"attn_layers.layers.{2 * i}", f"attn_layers.layers.{2 * i + 1}"
        found |= {
            f"h.{i}.ln_1.weight": Place(f"{attention}.0.0.gamma", (C,)),
            f"h.{i}.ln_2.weight": Place(f"{mlp}.0.0.gamma", (C,)),
            f"h.{i}.mlp.c_fc.weight": Place(f"{mlp}.1.ff.0.0.weight", (4 * C, C)),
            f"h.{i}.mlp.c_proj.weight": Place(f"{mlp}.1.ff.2.weight", (C, 4 * C)),
        }
        for ours, theirs in {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "c_proj": "to_out"}.items():
            found[f"h.{i}.attn.{ours}.weight"] = Place(f"{attention}.1.{theirs}.weight", (C, C))
        if config.bias:
            found[f"h.{i}.mlp.c_fc.bias"] = Place(f"{mlp}.1.ff.0.0.bias", (4 * C,))
            found[f"h.{i}.mlp.c_proj.bias"] = Place(f"{mlp}.1.ff.2.bias", (C,))
    return found


def layout(weights: Weights, config: GPTConfig) -> Weights:
    """Canonical weights under x-transformers' names."""
    return laid_out(weights, places(config))


def unlike(config: GPTConfig) -> str:
    """It lacks biases."""
    return "it has no biases in its attention and its norms" if config.bias else ""


def write(module: nn.Module, ids: Tensor, new: int) -> Tensor:
    """ids (B, T) -> ids and `new` greedy tokens (B, T + new), by x-transformers' wrapper with its cache."""
    writer = AutoregressiveWrapper(module).eval()  # generate restores the wrapper's own mode, so that must be eval
    return torch.cat([ids, writer.generate(ids, new, temperature=0.0)], dim=1)
