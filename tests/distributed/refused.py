"""torchrun -m tests.distributed.refused FILE: run every command of CASES as one of several processes.

A process imports torch once and forks for each command. Each writes how the commands ended to FILE.RANK.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

import reference.cli.train  # noqa: F401  # once, for all commands
from optimized import launch
from tests.reference.cli.conftest import HERE, SHORT, TINY

TRAIN = ["train", *TINY, *SHORT, *HERE]
DDP_ALONE = ["--recipe", "plain", "--with", "ddp"]
AS_IT_IS, NO_TEXT, OTHER_SEED = "as it is", "no text", "other seed"  # of struck.py
CASES = {  # what happens to the second process, and the command
    "batch": (AS_IT_IS, [*TRAIN, *DDP_ALONE, "--batch-size", "3"]),
    "micro-batch": (AS_IT_IS, [*TRAIN, *DDP_ALONE, "--batch-size", "12", "--micro-batch", "4"]),
    "no ddp": (AS_IT_IS, [*TRAIN, "--recipe", "plain"]),
    "corpus": (AS_IT_IS, [*TRAIN, *DDP_ALONE, "--corpus", "nowhere.txt"]),
    "bf16": (AS_IT_IS, [*TRAIN, "--recipe", "full", "--dtype", "float64"]),
    "no text": (NO_TEXT, [*TRAIN, *DDP_ALONE]),
    "other seed": (OTHER_SEED, [*TRAIN, *DDP_ALONE]),
    "unreadable": (AS_IT_IS, [*TRAIN, "--stepps", "3"]),
    "sample": (AS_IT_IS, ["sample"]),
}


def rendezvous_for(case: str, url: str) -> Iterator[tuple[Store, int, int]]:
    """As torch's, with keys of its own for each command, which all meet in the store of one torchrun."""
    for store, rank, world in rendezvous(url):
        yield PrefixStore(case, store), rank, world


def run(case: str, folder: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command, which runs in FOLDER/CASE."""
    how, command = CASES[case]
    streams = [folder / f"{case}.{stream}.{os.environ['RANK']}" for stream in ("out", "err")]
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder / case)
            for descriptor, path in enumerate(streams, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
            launch.rendezvous = partial(rendezvous_for, case)
            sys.argv = ["struck", how, "1", "0", *command]
            runpy.run_module("tests.distributed.struck", run_name="__main__")
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    out, err = (path.read_text() for path in streams)
    return os.waitstatus_to_exitcode(status), out, err


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {case: run(case, folder) for case in CASES}
    (folder / f"found.{os.environ['RANK']}").write_text(json.dumps(found))
