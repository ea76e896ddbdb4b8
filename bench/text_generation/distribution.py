"""Test whether drawn tokens come from a distribution: Pearson's chi-square test."""

from __future__ import annotations

import torch
from torch import Tensor

EXPECTED = 5.0  # draws of a cell at least; rarer tokens share one


def p_value(counts: Tensor, p: Tensor) -> float:
    """The probability that draws are at least as far from a distribution as these; 0 for an impossible token.

    Args:
        counts: (V,) how often each token was drawn
        p: (V,) its probability; sums to 1
    """
    counts, p = counts.double(), p.double()
    if bool((counts[p == 0.0] > 0).any()):
        return 0.0
    expected = p * counts.sum()
    rare = (expected < EXPECTED) & (p > 0.0)
    common = expected >= EXPECTED
    seen, wanted = counts[common], expected[common]
    if bool(rare.any()) and float(expected[rare].sum()) >= 1.0:
        seen = torch.cat([seen, counts[rare].sum()[None]])
        wanted = torch.cat([wanted, expected[rare].sum()[None]])
    freedom = len(seen) - 1
    if freedom < 1:
        return 1.0
    distance = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0, dtype=torch.float64), distance / 2.0))
