"""GPT-2, read from top to bottom: a norm, attention, an MLP, a block, the model.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: the decoder of a
Transformer with the norms moved to the input of each sub-block (pre-norm) and one more after the last block.

Shapes in the comments:
    B  batch                T  time, at most block_size
    C  width, n_embd        H  heads, n_head        D  head width, C / H
    V  vocabulary
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reference.config import GPTConfig
from reference.functional import causal_attention_weights, cross_entropy, gelu, layer_norm
from reference.ids import check_shape


class LayerNorm(nn.Module):
    """layer_norm with a learned gain and, if the config has biases, a learned shift."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias)


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention: each position averages values of itself and earlier positions, per head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.q_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.k_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.v_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.residual_dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> Tensor:
        """Split the width over the heads: (B, T, C) -> (B, H, T, D)."""
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights: (B, T, C) -> (B, H, T, T), lower triangular, each row summing to 1."""
        return causal_attention_weights(self.heads(self.q_proj(x)), self.heads(self.k_proj(x)))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.attention_dropout(self.weights(x))  # (B, H, T, T)
        y = weights @ self.heads(self.v_proj(x))  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(x.shape)  # (B, T, C), the heads side by side again
        return self.residual_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, hidden width 4C; each position by itself."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(gelu(self.c_fc(x))))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy of the residual stream x, and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """GPT-2 with freshly initialised weights.

    Args:
        config: the shape.

    The state dict of this class is the project's canonical layout: q, k and v apart, weights (out, in) as in
    `nn.Linear`, and the token table once, although it is both embedding and head.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens, and the head
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # positions
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal weights with standard deviation 0.02, zero biases, unit gains; from torch's global generator.

        The standard deviation of both projections into the residual stream is divided by sqrt(2 n_layer), so that its
        variance does not grow with the 2 n_layer additions (Radford et al. 2019, section 2.3).
        """
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "ln_" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=residual if name.endswith("c_proj.weight") else 0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """The residual stream after the final norm: ids (B, T) -> (B, T, C)."""
        check_shape(ids, self.config)  # not the values: that would wait for the device
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.dropout(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next token at every position.

        Args:
            ids: (B, T) int64, T at most block_size, or it is a ValueError; each in [0, V).

        Returns (B, T, V). Reads no id's value, because the host would have to wait for the device: an id outside
        [0, V) raises torch's IndexError on the CPU and fails a device assertion elsewhere. Check ids from outside once,
        by `reference.ids.check_ids`.
        """
        return self.hidden(ids) @ self.wte.weight.T  # the table that read the tokens also scores them

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a scalar, over the targets (B, T) that are not -1.

        Reads no values either: a target outside [0, V) other than -1 raises torch's RuntimeError on the CPU. Check
        targets from outside by `reference.ids.check_targets`.
        """
        logits = self(ids)
        # under bf16 autocast the logits have 8 bits: the exponentials and their sum need more
        return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
