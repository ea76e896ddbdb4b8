"""The exchange of gradients by NCCL, and `python -m optimized` under torchrun on GPUs."""

from pathlib import Path

import pytest
import torch

from bench.parity import distance, measure_all
from reference.checkpoints.checkpoint import load_newest
from tests.distributed import cases
from tests.distributed.torchrun import optimized, torchrun
from tests.reference.cli.conftest import SHORT, TINY

pytestmark = [pytest.mark.gpu, pytest.mark.multiproc]

TRAIN = ["train", *TINY, *SHORT, "--device", "cuda", "--dtype", "float64", "--dropout", "0", "--recipe", "plain"]
GPUS = torch.cuda.device_count()


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"))])
def test_gradients_that_were_exchanged_on_gpus_are_those_of_the_whole_batch(tmp_path: Path, world: int) -> None:
    """On one GPU, a group of one: NCCL runs without other processes."""
    ended = torchrun(
        "-m", "tests.distributed.worker", tmp_path / "found", "cuda", processes=world, cwd=tmp_path, limit=400
    )
    assert ended.status == 0, ended.err
    whole = cases.gradients(0, 1)
    for rank in range(world):
        for case, (loss, gradients) in torch.load(f"{tmp_path}/found.{rank}", weights_only=False)["gradients"].items():
            assert distance(loss, whole[case][0])[0] <= 1e-12, case
            for measured in measure_all("gradient", gradients, whole[case][1]):
                assert measured.error <= 1e-12, f"{case}: {measured.name} is off by {measured.error:.1e}"


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_run_of_two_gpus_is_that_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        ended = optimized(*TRAIN, "--with", "ddp", "--out", f"run{processes}", processes=processes, cwd=tmp_path)
        assert ended.status == 0, ended.err
    one, two = (load_newest(tmp_path / f"run{processes}")[0] for processes in (1, 2))
    for measured in measure_all("update", two.model, one.model):
        assert measured.error <= 1e-9, f"{measured.name} is off by {measured.error:.1e}"


def test_more_processes_than_gpus_are_one_line_and_status_2(tmp_path: Path) -> None:
    ended = optimized(*TRAIN, "--with", "ddp", "--batch-size", 4 * (GPUS + 1), processes=GPUS + 1, cwd=tmp_path)
    assert ended.exit_codes == [2] * (GPUS + 1), ended.err
    assert ended.said == [
        f"error: {GPUS + 1} processes on a machine with {GPUS} GPU{'s' if GPUS > 1 else ''}: start at most as many, "
        "or give --device cpu"
    ]
    assert list(tmp_path.iterdir()) == []
