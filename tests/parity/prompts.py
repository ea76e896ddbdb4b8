"""1,000 prompts of mixed lengths for comparing greedy generation."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bench.numerics.inputs import sharp_state_dict
from reference import GPTConfig

CONFIG = GPTConfig(block_size=64, vocab_size=211, n_layer=2, n_head=3, n_embd=24)
WEIGHTS = sharp_state_dict(CONFIG, seed=3)
NEW, PROMPTS = 8, 1000


@cache
def prompts() -> list[list[int]]:
    """1,000 prompts of 1 to 56 tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, CONFIG.block_size - NEW + 1, (PROMPTS,), generator=generator).tolist()
    return [torch.randint(CONFIG.vocab_size, (T,), generator=generator).tolist() for T in lengths]


def by_length() -> dict[int, list[int]]:
    """Which prompts have which length."""
    out: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts()):
        out.setdefault(len(prompt), []).append(number)
    assert len(out) > 40, "the prompts are not of mixed lengths"
    return out


def ids_of(numbers: list[int]) -> Tensor:
    """Prompts of one length, (B, T) int64."""
    return torch.tensor([prompts()[number] for number in numbers])
