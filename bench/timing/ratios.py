"""Ratios of times: calls in turn, synchronised and warmed up; medians with intervals.

An absolute time means little on a shared machine or one that changes its clock. So contenders are timed in turn,
A B C A B C, and the ratio of times from the same round is reported.
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
RESAMPLES = 2000  # of the bootstrap: more would change the interval by less than its last printed digit


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, with its confidence interval."""

    median: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def inverse(self) -> Ratio:
        """The inverse ratio."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low, self.confidence)


def confidence_of(samples: int) -> float:
    """Confidence of an interval from n samples: 95 %, less for n < 6.

    Even the widest interval, from the lowest to the highest sample, misses the true median if all samples are above it
    or all below: 2^-n each. For several launches n is their number: more rounds in each say nothing about differences
    between launches.
    """
    return min(CONFIDENCE, 1 - 2.0 ** (1 - samples))


def nothing() -> None:
    """Do nothing: a CPU has no queue to wait for."""


def time_calls(
    calls: Mapping[str, Call],
    rounds: int,
    warmup: int = 1,
    sync: Call = nothing,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Call = nothing,
) -> dict[str, list[float]]:
    """Time calls in turn: each once per round, in the order given.

    Args:
        calls: by name; their results are dropped
        rounds: timed rounds
        warmup: rounds before them, not timed, for compiling, caching and allocating on first use
        sync: waits until the device has finished; called inside the timed region, because a GPU's work is only queued
            when the call returns
        clock: seconds from any zero
        after_round: called after every round, also of the warm-up, outside the timed region

    Returns the seconds of each call by name: entry i of every list is from round i.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            sync()  # finish the previous call's work
            start = clock()
            call()
            sync()
            elapsed = clock() - start
            if number >= warmup:
                seconds[name].append(elapsed)
        after_round()
    return seconds


def ratio(samples_a: Sequence[float], samples_b: Sequence[float], seed: int = 0) -> Ratio:
    """Time of a / time of b: the median over rounds.

    Args:
        samples_a, samples_b: seconds; entry i of both is from round i
        seed: of the bootstrap; the same samples and seed give the same interval

    The interval is between the 2.5 and 97.5 percentiles of the median over resampled rounds (Efron 1979,
    https://doi.org/10.1214/aos/1176344552); with few rounds its confidence is lower, see `confidence_of`.
    Raises ValueError for lists that are empty or differ in length.
    """
    if len(samples_a) != len(samples_b) or not samples_a:
        raise ValueError(f"{len(samples_a)} and {len(samples_b)} samples: give the same number of both, at least 1")
    ratios = np.asarray(samples_a) / np.asarray(samples_b)
    chosen = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[chosen], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), confidence_of(len(ratios)))


def ratio_over_launches(launches: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Ratio:
    """Time of a / time of b, from several launches of both: the median of the launches' medians.

    A process keeps its place in memory, and maybe its core, until it ends. That shifts all its samples alike, which the
    interval of one launch cannot show. So the bootstrap draws launches first, then rounds of each.

    Args:
        launches: (samples_a, samples_b) of each launch, as for `ratio`; at least 2
        seed: of the bootstrap
    """
    if len(launches) < 2:
        raise ValueError(f"{len(launches)} launches: give at least 2, or the interval cannot know how they differ")
    generator = np.random.default_rng(seed)
    medians = []  # (launches, RESAMPLES)
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
    """How many rounds of `one_round` seconds fit into `seconds`; at least `least`, at most `most`."""
    return max(least, min(most, int(seconds / max(one_round, 1e-9))))


def synchronise(device: torch.device) -> Call:
    """The function that waits until a device has finished its work."""
    import torch  # here, because a command that only reads results does not need it

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    if device.type == "xpu":
        return lambda: torch.xpu.synchronize(device)
    return nothing
