"""How fast calls are, against each other: taken in turn, synchronised, warmed up, with medians and intervals.

One absolute time says little on a machine that others use too, or that changes its clock. So contenders are timed in
turn, A B C A B C, and what is reported is the ratio of times that were taken next to each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]

CONFIDENCE = 0.95
RESAMPLES = 2000  # of the bootstrap: its interval then moves by less than its last printed digit


@dataclass(frozen=True)
class Ratio:
    """How many times as long one call takes as another, with the interval that holds it, and how surely."""

    median: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def turned(self) -> Ratio:
        """How many times as long the other call takes."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low, self.confidence)


def confidence_of(samples: int) -> float:
    """How surely an interval of so many samples holds their median: 95 %, or less of fewer than six.

    The widest there is goes from the lowest to the highest, and leaves the median out if all are above it or all below,
    each with a probability of 2^-n. Of several launches it is that of their number: more rounds of each do not
    tell more about how launches differ.
    """
    return min(CONFIDENCE, 1 - 2.0 ** (1 - samples))


def nothing() -> None:
    """Where there is nothing to wait for, as on a CPU."""


def interleave(
    calls: Mapping[str, Call],
    rounds: int,
    warmup: int = 1,
    sync: Call = nothing,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Call = nothing,
) -> dict[str, list[float]]:
    """Time calls in turn: each once, then each once more, in the order given.

    Args:
        calls: by name; what they return is dropped
        rounds: how often each is timed
        warmup: rounds before those, not timed: what is compiled, cached or allocated on first use happens there
        sync: waits until the device has done what was asked of it; called inside the timed region, because a GPU's
            work is only queued when the call returns
        clock: seconds from any zero
        after_round: called between rounds, outside the timed region, warm-up included

    Returns the seconds of each call by name, in the order they were taken: entry i of every list is from round i.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            sync()  # nothing of the one before is left over
            start = clock()
            call()
            sync()
            elapsed = clock() - start
            if number >= warmup:
                seconds[name].append(elapsed)
        after_round()
    return seconds


def ratio(samples_a: Sequence[float], samples_b: Sequence[float], seed: int = 0) -> Ratio:
    """How many times as long a takes as b: the median of the ratios of times from the same round.

    Args:
        samples_a, samples_b: seconds, entry i of both taken in round i
        seed: of the bootstrap; the same samples and seed give the same interval

    The interval is between the 2.5 and 97.5 percentiles of the median over resampled rounds (Efron 1979,
    https://doi.org/10.1214/aos/1176344552); of few rounds its confidence is less, see `confidence_of`.
    Raises ValueError for lists that are empty or not of the same length.
    """
    if len(samples_a) != len(samples_b) or not samples_a:
        raise ValueError(f"{len(samples_a)} and {len(samples_b)} samples: give the same number of both, at least 1")
    ratios = np.asarray(samples_a) / np.asarray(samples_b)
    chosen = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[chosen], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), confidence_of(len(ratios)))


def ratio_over_launches(launches: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Ratio:
    """How many times as long a takes as b, from several launches of both: the median of their medians.

    Where a process happens to lie in memory, or which core it is put on, stays for as long as it runs: its samples are
    off by the same, and however many there are of them, the interval of one launch does not know it. Here launches are
    drawn first, then rounds of each.

    Args:
        launches: (samples_a, samples_b) of each, as for `ratio`; at least 2
        seed: of the bootstrap
    """
    if len(launches) < 2:
        raise ValueError(f"{len(launches)} launches: give at least 2, or the interval cannot know how they differ")
    generator = np.random.default_rng(seed)
    medians = []  # by launch: of as many resamples
    for samples_a, samples_b in launches:
        if len(samples_a) != len(samples_b) or not samples_a:
            raise ValueError(f"{len(samples_a)} and {len(samples_b)} samples: give the same number of both, at least 1")
        ratios = np.asarray(samples_a) / np.asarray(samples_b)
        chosen = generator.integers(len(ratios), size=(RESAMPLES, len(ratios)))
        medians.append(np.median(ratios[chosen], axis=1))
    drawn = generator.integers(len(launches), size=(RESAMPLES, len(launches)))
    resampled = np.asarray(medians)[drawn, np.arange(RESAMPLES)[:, None]]  # (RESAMPLES, launches)
    low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975))
    middle = np.median([ratio(a, b).median for a, b in launches])
    return Ratio(float(middle), float(low), float(high), confidence_of(len(launches)))


def spread(samples: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a fraction of the median: 0.03 is "± 3 %"."""
    low, middle, high = np.quantile(np.asarray(samples), (0.25, 0.5, 0.75))
    return float((high - low) / 2 / middle)


def rounds_within(seconds: float, one_round: float, least: int, most: int) -> int:
    """How many rounds fit into a time, when one takes `one_round` seconds; at least `least`, at most `most`."""
    return max(least, min(most, int(seconds / max(one_round, 1e-9))))


def synchronise(device: torch.device) -> Call:
    """The call that waits for everything a device was asked to do."""
    import torch  # not above: a command that only reads results does without it

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    if device.type == "xpu":
        return lambda: torch.xpu.synchronize(device)
    return nothing
