"""torchrun -m tests.distributed.worker FILE [cuda]: each process writes the results of cases.py to FILE.RANK."""

import os
import sys

import torch
import torch.distributed as dist

from tests.distributed import cases

torch.set_num_threads(1)
if sys.argv[2:] == ["cuda"]:
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
else:
    device = "cpu"
    dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
found = {"gradients": cases.gradients(rank, world, device)}
if device == "cpu":
    found["exchanges"] = cases.exchanges(world)
if world == 2:
    found["runs"] = cases.runs(rank, world, device)
    found["graphs"] = cases.graphs_with_small_buckets() if device == "cpu" else 1
torch.save(found, f"{sys.argv[1]}.{rank}")
dist.destroy_process_group()
os._exit(0)  # without torch's compile workers, which would be waited for
