"""x-transformers' decoder, by its own options as near to GPT-2 as they come.

With `ff_custom_activation` it has GPT-2's tanh GELU (its own is the erf one), with `norm_add_unit_offset=False` its
gains are kept as they are used, and `tie_embedding` ties the head. Its position table is scaled by dim ** -0.5, which
no option turns off: the attribute is set to 1. Attention is torch's (`attn_flash`); the explicit one computes its
softmax in float32 whatever it is given.

It has no biases in the projections of attention nor in the norms, and no option for them. For a GPT-2 without biases,
it is the same function, in float64 too; for the GPT-2 of the papers, it is not.

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
    """A `TransformerWrapper` around a `Decoder`."""
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
    """Two of its layers are one of our blocks: attention, then the MLP, each behind its norm."""
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
    """Canonical weights by its names."""
    return laid_out(weights, places(config))


def unlike(config: GPTConfig) -> str:
    """Why it is not GPT-2: it lacks biases."""
    return "it has no biases in its attention and its norms" if config.bias else ""


def write(module: nn.Module, ids: Tensor, new: int) -> Tensor:
    """ids (B, T) and `new` tokens after them, by its own wrapper with its cache: (B, T + new)."""
    writer = AutoregressiveWrapper(module).eval()  # it puts the module back into the mode that it is in itself
    return torch.cat([ids, writer.generate(ids, new, temperature=0.0)], dim=1)
