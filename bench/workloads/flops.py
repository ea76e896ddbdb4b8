"""GPT-2's FLOPs per token, by formula: a multiply-add of a matrix product counts as 2.

Shapes: T time, C width, L layers, V vocabulary.

    forward     24 L C^2 + 4 L C T + 2 V C
                24 L C^2   linear layers, 2 x (3 C^2 for q, k, v + C^2 for the output + 8 C^2 for the MLP)
                4 L C T    q k^T and weights @ v over the full T x T square, like explicit attention; a causal kernel
                           that skips the upper half computes about half
                2 V C      the LM head
    training    3 times that: the backward pass has two products for each product of the forward pass
    generated   24 L C^2 + 4 L C t + 2 V C with a KV cache, for a token that attends to t tokens, itself included

Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B, has the same count: 6 N + 12 L C T for training, N
without embedding lookups. Elementwise work (norms, GELU, softmax, the optimizer) is left out: under 1 % of the sum at
GPT-2's widths. Every contender gets the same count; a contender that skips work shows a higher rate.
"""

from __future__ import annotations

from reference.config import GPTConfig


def forward_flops_per_token(config: GPTConfig, T: int) -> int:
    """FLOPs per token of a forward pass over T tokens."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return 24 * L * C * C + 4 * L * C * T + 2 * V * C


def training_flops_per_token(config: GPTConfig, T: int) -> int:
    """FLOPs per token of a forward and backward pass over T tokens; 855 million for gpt2 at T = 1024."""
    return 3 * forward_flops_per_token(config, T)


def generated_flops_per_token(config: GPTConfig, prompt: int, new: int) -> float:
    """Mean FLOPs of a generated token with a KV cache, over the second to the last of `new` tokens.

    The first new token comes from the prompt's forward pass. The next ones attend to prompt + 1, prompt + 2, ...
    tokens, themselves included.
    """
    contexts = range(prompt + 1, prompt + max(new, 2))
    return sum(forward_flops_per_token(config, t) for t in contexts) / len(contexts)


def prefill_flops(config: GPTConfig, T: int) -> int:
    """FLOPs of a forward pass over a prompt of T tokens, with logits for the last token only."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return T * (24 * L * C * C + 4 * L * C * T) + 2 * V * C
