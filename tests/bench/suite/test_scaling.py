"""The scaling curves: their axes and their common point."""

from __future__ import annotations

from bench.suite.scaling import AXES, CURVES, MIDDLE, points


def test_the_curves_cross_in_the_middle_and_change_one_size_each() -> None:
    assert {point.axis for point in points()} == set(AXES) == {"time", "batch", "depth", "width", "vocabulary"}
    assert set(CURVES) == {"plain", "sdpa", "fused_loss"}
    for axis, values in AXES.items():
        assert len(values) >= 3
        assert max(values) >= 8 * min(values), "a curve needs a range"
        assert list(values) == sorted(set(values))
        works = [point.work for point in points() if point.axis == axis]
        assert MIDDLE in works, f"{axis} does not go through the middle"
    sizes = {point.work.size for point in points()}
    assert len(sizes) == len({point.work for point in points()}), "each workload has its own size name"
