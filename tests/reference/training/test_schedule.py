"""The learning rate against torch's schedulers and against numbers computed by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from reference.training.schedule import check_schedule, learning_rate

PEAK, FLOOR, WARMUP, TOTAL = 3e-4, 3e-5, 10, 60


def test_the_rate_is_torchs_linear_warm_up_followed_by_its_cosine_at_every_step() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=PEAK)
    warm_up = LinearLR(optimizer, start_factor=1 / WARMUP, end_factor=1.0, total_iters=WARMUP - 1)
    cosine = CosineAnnealingLR(optimizer, T_max=TOTAL - WARMUP, eta_min=FLOOR)
    scheduler = SequentialLR(optimizer, [warm_up, cosine], milestones=[WARMUP])
    for step in range(TOTAL):
        ours = learning_rate(step, peak=PEAK, warmup=WARMUP, total=TOTAL, floor=FLOOR)
        theirs = optimizer.param_groups[0]["lr"]
        assert ours == pytest.approx(theirs, rel=1e-12), f"step {step}: {ours} here, {theirs} in torch"
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.1),  # never 0: the first step learns
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.55),  # half way between the peak and the floor
        (59, 0.1 + 0.45 * (1 + math.cos(math.pi * 49 / 50))),
        (60, 0.1),
        (1000, 0.1),
    ],
)
def test_the_rate_is_the_one_worked_out_by_hand(step: int, expected: float) -> None:
    assert learning_rate(step, peak=1.0, warmup=10, total=60, floor=0.1) == pytest.approx(expected, rel=1e-14)


def test_a_floor_as_high_as_the_peak_is_a_constant_rate() -> None:
    check_schedule(peak=PEAK, warmup=0, total=TOTAL, floor=PEAK)
    rates = [learning_rate(step, peak=PEAK, warmup=0, total=TOTAL, floor=PEAK) for step in range(TOTAL + 2)]
    assert rates == pytest.approx([PEAK] * len(rates), rel=1e-15)


def test_the_rate_climbs_to_the_peak_then_falls_to_the_floor_and_nowhere_jumps() -> None:
    rates = [learning_rate(s, peak=PEAK, warmup=WARMUP, total=TOTAL, floor=FLOOR) for s in range(TOTAL + 5)]
    assert max(rates) == PEAK
    assert min(rates[WARMUP:]) == FLOOR
    assert rates[:WARMUP] == sorted(rates[:WARMUP])
    assert rates[WARMUP:] == sorted(rates[WARMUP:], reverse=True)
    assert max(abs(a - b) for a, b in pairwise(rates)) <= PEAK / WARMUP * (1 + 1e-9)


@pytest.mark.parametrize("warmup, total", [(0, 1), (1, 1), (0, 5), (5, 5)])
def test_warm_up_and_decay_may_each_be_missing(warmup: int, total: int) -> None:
    check_schedule(peak=1.0, warmup=warmup, total=total, floor=0.0)
    rates = [learning_rate(s, peak=1.0, warmup=warmup, total=total, floor=0.0) for s in range(total + 1)]
    assert all(0.0 < rate <= 1.0 for rate in rates[:-1])
    assert rates[-1] == 0.0


@pytest.mark.parametrize(
    "change, says",
    [
        ({"peak": 0.0}, "learning rate 0.0: give a number above 0"),
        ({"peak": math.nan}, "learning rate nan: give a number above 0"),
        ({"floor": 2.0}, "lowest learning rate 2.0: give a number from 0 to the learning rate, 1.0"),
        ({"floor": -0.1}, "lowest learning rate -0.1: give a number from 0"),
        ({"total": 0}, "0 steps: give 1 or more"),
        ({"warmup": 61}, "61 warm-up steps: give a number from 0 to the number of steps, 60"),
        ({"warmup": -1}, "-1 warm-up steps"),
    ],
)
def test_an_invalid_schedule_is_refused_with_the_value(change: dict[str, float], says: str) -> None:
    settings = {"peak": 1.0, "warmup": 10, "total": 60, "floor": 0.1} | change
    with pytest.raises(ValueError, match=says) as caught:
        check_schedule(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
