"""torchrun -m tests.bugs.worker FILE: a step of two real processes, correct and with each bug; writes FILE.RANK."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

from tests.bugs.checks import Outcome, worst
from tests.bugs.checks_of_training import step_of_a_rank, two_ranks
from tests.bugs.mutants import MUTANTS
from tests.bugs.sides import rungs

SIDE = rungs("ddp")


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found: dict[str, Outcome] = {"right code": worst(step_of_a_rank(SIDE, 0, rank))}
    for mutant in MUTANTS:
        if mutant.check is two_ranks:
            with mutant.injected():
                found[mutant.name] = worst(step_of_a_rank(SIDE, 0, rank))
    torch.save({name: (one.error, one.over, one.what) for name, one in found.items()}, f"{sys.argv[1]}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    os._exit(0)  # to free a model of the group that is gone can wait for ever: gloo's thread and Python for each other
