"""How many floating-point operations GPT-2 takes per token, by formula: 2 for each multiply and add of a product.

Shapes: T time, C width, L layers, V vocabulary.

    forward     24 L C^2 + 4 L C T + 2 V C
                24 L C^2   the linear layers: 3 C^2 for q, k, v, C^2 after the attention, 8 C^2 in the MLP, twice
                4 L C T    scores and their sum over the values, of the full T x T square, as explicit attention does
                           it; a causal kernel that leaves out the upper half does about half of it
                2 V C      the head
    training    3 times that: the backward pass takes a product for each of the two factors of every product
    generated   24 L C^2 + 4 L C t + 2 V C for the token that attends to t of them, itself included, with a cache

Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B, counts the same: 6 N + 12 L C T for training, N
without what is only looked up. What is linear in C (norms, GELU, softmax, the optimizer) is left out: under
1 % of the sum at GPT-2's widths, and no device is rated by it. The count is the same for every contender, whatever it
computes: one that skips work gets the rate for it.
"""

from __future__ import annotations

from reference.config import GPTConfig


def forward_flops_per_token(config: GPTConfig, T: int) -> int:
    """Operations of a forward pass over T tokens, for each of them."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return 24 * L * C * C + 4 * L * C * T + 2 * V * C


def training_flops_per_token(config: GPTConfig, T: int) -> int:
    """Operations of a forward and a backward pass over T tokens, for each of them; 855 million for gpt2 at T = 1024."""
    return 3 * forward_flops_per_token(config, T)


def generated_flops_per_token(config: GPTConfig, prompt: int, new: int) -> float:
    """Operations of each of `new` tokens that are generated with a cache after the first, on average.

    The first new token comes out of the prompt's own forward pass. The next ones attend to prompt + 1, prompt + 2, ...
    tokens, themselves included.
    """
    contexts = range(prompt + 1, prompt + max(new, 2))
    return sum(forward_flops_per_token(config, t) for t in contexts) / len(contexts)


def prefill_flops(config: GPTConfig, T: int) -> int:
    """Operations of reading a prompt of T tokens, scoring only the last: the head works once."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return T * (24 * L * C * C + 4 * L * C * T) + 2 * V * C
