"""The learning rate of each step: linear warm-up, then half a cosine down to a floor.

Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5, without restarts; the settings that
GPT-3 (Brown et al. 2020, appendix B) describes.
"""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup: int, total: int, floor: float) -> float:
    """The learning rate of step `step`, counted from 0; a pure function.

    Args:
        peak: reached at the last warm-up step, `warmup - 1` (at step 0 without warm-up)
        warmup: number of steps over which the rate climbs: step s has peak (s + 1) / warmup, never 0
        total: from this step on the rate is `floor`
        floor: the smallest rate after warm-up

    >>> [learning_rate(s, peak=1.0, warmup=2, total=6, floor=0.0) for s in (0, 1, 2, 4, 6)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total:
        return floor
    progress = (step - warmup) / (total - warmup)  # 0 at the peak, 1 at the end
    return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * progress))


def check_schedule(*, peak: float, warmup: int, total: int, floor: float) -> None:
    """Raise a ValueError for settings that describe no schedule."""
    if not peak > 0.0:
        raise ValueError(f"learning rate {peak}: give a number above 0")
    if not 0.0 <= floor <= peak:
        raise ValueError(f"lowest learning rate {floor}: give a number from 0 to the learning rate, {peak}")
    if total < 1:
        raise ValueError(f"{total} steps: give 1 or more")
    if not 0 <= warmup <= total:
        raise ValueError(f"{warmup} warm-up steps: give a number from 0 to the number of steps, {total}")
