"""Alone and DataParallel in one process: what they pass to the model and to torch, and return.

The other process is torch's fake, which sends nothing and has no threads: those of gloo can lock a process up for good
where a group ends before its DistributedDataParallel. tests/distributed has real ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from optimized.distributed import Alone, DataParallel

IDS, TARGETS = torch.tensor([2.0, 5.0]), torch.tensor([7.0, 11.0])


class Product(nn.Module):
    """A model whose loss depends on every argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.b = nn.Parameter(torch.tensor(3.0))
        self.dynamo = importlib.import_module("torch._dynamo.config")
        self.cut: list[object] = []  # the compiler's setting at each call

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        self.cut.append(self.dynamo.optimize_ddp)
        return (self.a * ids).sum() * self.b - (self.b * targets).sum()


LOSS, BY_A, BY_B = -18.0, [6.0, 15.0], -6.0  # (1*2 + 2*5) * 3 - 3 * 18, and its derivatives


@pytest.fixture
def group() -> Iterator[None]:
    """The first of two processes."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def exchanged() -> list[int]:
    """The number of every bucket of gradients that is exchanged."""
    return []


@pytest.fixture
def parallel(group: None, exchanged: list[int]) -> DataParallel:
    """Simulate another process with the same gradients."""

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # annotations as text are refused
        exchanged.append(bucket.index())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel = DataParallel(Product())
    parallel.replica.register_comm_hook(None, hook)
    return parallel


def product(parallel: DataParallel) -> Product:
    model = parallel.replica.module.model
    assert isinstance(model, Product)
    return model


def test_alone_has_the_models_loss_its_own_sum_and_nothing_to_hold_back() -> None:
    alone = Alone(Product())
    assert alone.world == 1
    assert alone.loss(IDS, TARGETS) == LOSS
    assert alone.sum(IDS) is IDS
    with alone.accumulating() as nothing:
        assert nothing is None


def test_the_loss_and_the_gradients_are_the_models(parallel: DataParallel) -> None:
    loss = parallel.loss(IDS, TARGETS)
    loss.backward()  # type: ignore[no-untyped-call]
    model = product(parallel)
    assert (parallel.world, loss.item()) == (2, LOSS)
    assert model.a.grad is not None
    assert model.b.grad is not None
    assert (model.a.grad.tolist(), model.b.grad.item()) == (BY_A, BY_B)


def test_gradients_lie_in_the_bucket_that_is_exchanged_and_take_no_memory_beside_it(parallel: DataParallel) -> None:
    parallel.loss(IDS, TARGETS).backward()  # type: ignore[no-untyped-call]
    a, b = product(parallel).a.grad, product(parallel).b.grad
    assert a is not None
    assert b is not None
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def test_torch_is_told_not_to_cut_compiled_code_where_a_bucket_ends_in_the_forward_pass_alone(
    parallel: DataParallel,
) -> None:
    model = product(parallel)
    before = model.dynamo.optimize_ddp
    parallel.loss(IDS, TARGETS)
    assert model.cut == [False]
    assert model.dynamo.optimize_ddp == before
    assert before is not False


def test_a_sum_over_processes_leaves_each_ones_tensor_as_it_is(
    parallel: DataParallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_reduce(tensor: Tensor) -> None:
        tensor.add_(TARGETS)  # what another process has

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    mine = IDS.clone()
    assert parallel.sum(mine).tolist() == [9.0, 16.0]
    assert torch.equal(mine, IDS)


def test_while_accumulating_no_gradient_is_exchanged(parallel: DataParallel, exchanged: list[int]) -> None:
    with parallel.accumulating():
        parallel.loss(IDS, TARGETS).backward()  # type: ignore[no-untyped-call]
    assert exchanged == []
    parallel.loss(IDS, TARGETS).backward()  # type: ignore[no-untyped-call]
    assert exchanged == [0]
    model = product(parallel)
    assert model.a.grad is not None
    assert model.a.grad.tolist() == [2 * one for one in BY_A]
