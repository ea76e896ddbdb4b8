"""Validation, random numbers and device of processes that share a run, without starting processes."""

import pytest
import torch
from torch import Tensor, nn

import optimized.launch
from optimized.launch import Launched
from reference.data.batches import windows
from reference.functional import IGNORED
from reference.training.evaluation import mean_loss, shared
from reference.training.loop import step_randomness
from reference.training.processes import OneProcess


class OneOf(OneProcess):
    """One of several processes, which records its share of a sum."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world  # type: ignore[misc]
        self.added: list[float] = []

    def sums(self, *numbers: float) -> list[float]:
        self.added = list(numbers)
        return [1.0, 1.0]


class Model(nn.Module):
    """A loss that differs from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        counted = targets != IGNORED
        return (self.weight * ids[counted] + targets[counted]).mean()


@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_every_window_is_judged_by_one_process_and_all_have_as_many_batches(world: int, rows: int) -> None:
    tokens = torch.arange(60)
    whole = list(windows(tokens, 8, rows))
    expected, count = mean_loss(Model(), whole)
    total, counted, lengths = 0.0, 0.0, set()
    for rank in range(world):
        process = OneOf(rank, world)
        share = list(shared(windows(tokens, 8, rows), process))
        mean_loss(Model(), share, process)
        total, counted = total + process.added[0], counted + process.added[1]
        lengths.add(len(share))
    assert lengths == {-(-len(whole) // world)}, "a process that has fewer would not hear of a signal when others do"
    assert counted == count == 59
    assert total / counted == pytest.approx(expected, rel=1e-12)


def test_processes_that_share_a_step_draw_different_dropout_and_the_first_that_of_a_single_one() -> None:
    def draw(seed: int, step: int, *rank: int) -> Tensor:
        with step_randomness(seed, step, torch.device("cpu"), *rank):
            return torch.rand(8)

    assert torch.equal(draw(1, 5, 0), draw(1, 5))
    assert torch.equal(draw(1, 5, 2), draw(1, 5, 2))
    drawn = [draw(seed, step, rank) for seed in (1, 2) for step in (5, 6) for rank in range(3)]
    assert len({tuple(one.tolist()) for one in drawn}) == len(drawn)


@pytest.mark.parametrize(
    "name, here, gpus, expected",
    [
        ("cpu", 3, 2, "cpu"),
        ("auto", 2, 2, "cuda:1"),
        ("cuda", 2, 4, "cuda:1"),
        ("cuda:0", 2, 2, "--device cuda:0 with 6 processes: give cuda, and each takes its own"),
        ("auto", 3, 2, "3 processes on a machine with 2 GPUs: start at most as many, or give --device cpu"),
    ],
)
def test_of_the_gpus_of_a_machine_each_process_takes_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, here: int, gpus: int, expected: str
) -> None:
    def choose(name: str, dtype: str) -> torch.device:
        return torch.device("cuda" if name == "auto" else name)

    monkeypatch.setattr(optimized.launch, "choose_device", choose)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    second = object.__new__(Launched)
    second.rank, second.local_rank, second.world, second.here = 4, 1, 6, here
    try:
        answer = str(second.device(name, "float32"))
    except ValueError as error:
        answer = str(error)
    assert answer == expected
