"""The distributed slot: one process, or several that share every batch (torch's DistributedDataParallel).

torchrun starts the processes, each with its rank in environment variables.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Alone:
    """A single process with the whole batch."""

    world = 1

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The model's loss."""
        out: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return out

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def accumulating(self) -> AbstractContextManager[object]:
        """Nothing: no gradient is exchanged."""
        return nullcontext()


class Loss(nn.Module):
    """A model's loss as a forward pass: DistributedDataParallel only wraps `forward`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        out: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        return out


class DataParallel:
    """Each process has the same model and its share of the batch; the backward pass averages gradients.

    Needs an initialised process group. All processes start with the weights of rank 0.
    """

    def __init__(self, model: nn.Module) -> None:
        self.world = dist.get_world_size()
        self.replica = DistributedDataParallel(Loss(model), gradient_as_bucket_view=True)
        self.compiler = import_module("torch._dynamo.config")  # slow to import, and not needed by a single process

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss of this process's share; its backward pass exchanges gradients."""
        # By default torch splits compiled code at gradient buckets. Blocks are compiled one by one, so the exchange of
        # one block's gradients overlaps with the next block's backward pass anyway.
        with self.compiler.patch(optimize_ddp=False):
            out: Tensor = self.replica(ids, targets)
        return out

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors."""
        out = tensor.clone()
        dist.all_reduce(out)
        return out

    def accumulating(self) -> AbstractContextManager[object]:
        """DistributedDataParallel's no_sync; enter before the forward pass."""
        return self.replica.no_sync()
