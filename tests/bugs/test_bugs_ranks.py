"""What two threads show of the bugs of ranks, two processes with DistributedDataParallel show too."""

from __future__ import annotations

import pytest
import torch

from tests.bugs.checks_of_training import two_ranks
from tests.bugs.mutants import MUTANTS
from tests.distributed.torchrun import torchrun

OF_RANKS = [mutant.name for mutant in MUTANTS if mutant.check is two_ranks]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[float, float, str]]]:
    """By rank and bug: error, error over budget, and of what."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = torchrun("-m", "tests.bugs.worker", folder / "found", processes=2, cwd=folder)
    assert ended.status == 0, ended.err
    return [torch.load(f"{folder}/found.{rank}") for rank in range(2)]


@pytest.mark.multiproc
def test_two_processes_step_as_one_does(found: list[dict[str, tuple[float, float, str]]]) -> None:
    for one in found:
        assert one["right code"][1] <= 1.0, one["right code"]


@pytest.mark.multiproc
@pytest.mark.parametrize("name", OF_RANKS)
def test_the_mutant_is_caught_in_two_processes(name: str, found: list[dict[str, tuple[float, float, str]]]) -> None:
    assert max(one[name][1] for one in found) > 100.0
