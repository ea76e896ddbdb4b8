"""Feed samples that worker processes have taken to pytest-benchmark, through a clock that replays them.

pytest-benchmark calls a function many times and reads its clock around each call. Here each call advances the clock by
one sample, so its statistics, files and comparisons are of the samples that were taken in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


class ReplayClock:
    """A clock that stands still until it replays a sample; give it to pytest-benchmark as `timer`."""

    __name__ = "ReplayClock"  # pytest-benchmark writes it into its files

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def replay(self, samples: Iterator[float]) -> None:
        """Advance by the next sample, in seconds."""
        self.now += next(samples)


CLOCK = ReplayClock()


def report(benchmark: Any, group: str, seconds: Sequence[float], details: dict[str, Any]) -> None:
    """Have pytest-benchmark report samples, one per round.

    Args:
        benchmark: its fixture, in a test with `@pytest.mark.benchmark(timer=CLOCK)`
        group: of benchmarks in one table
        seconds: the samples
        details: for `extra_info`
    """
    benchmark.group = group
    benchmark.extra_info.update(details)
    benchmark.pedantic(CLOCK.replay, args=(iter(seconds),), rounds=len(seconds))
