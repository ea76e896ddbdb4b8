"""Computations to compare between one process and several: run alone, or by worker.py under torchrun."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from bench.numerics.inputs import sharp_state_dict
from optimized import FULL, PLAIN, Recipe, build, build_step, only
from optimized.compilation import CompiledBlocks
from optimized.distributed import DataParallel
from optimized.gpt import GPT
from optimized.step import TrainingStep
from reference import GPTConfig
from reference.checkpoints.canonical import to_canonical
from reference.functional import IGNORED

CONFIG = GPTConfig(block_size=10, vocab_size=37, n_layer=2, n_head=2, n_embd=16)
ROWS, T, STEPS = 24, 9, 20
EXACT = FULL.without("bf16", "compile")
RECIPES = {"plain": only("ddp"), "full": EXACT}
RUNS = {  # recipe and precision of 20 steps
    "plain float64": (only("ddp"), "float64"),
    "plain float32": (only("ddp"), "float32"),
    "full float64": (EXACT, "float64"),
    "full compiled float64": (FULL.without("bf16"), "float64"),
}
MICRO_BATCHES = (1, 2, 3, 4)


def batch(kind: str, rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and targets, (rows, T) both, some targets ignored."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(CONFIG.vocab_size, (rows, T), generator=random)
    targets = torch.randint(CONFIG.vocab_size, (rows, T), generator=random)
    chance = torch.rand(rows, T, generator=random)
    density = torch.linspace(0.05, 0.95, rows)[:, None]  # of ignored targets: more and more from row to row
    match kind:
        case "all count":
            pass
        case "unequal counts":
            targets[chance < density] = IGNORED
        case "a micro-batch in which nothing counts":
            targets[chance < density] = IGNORED
            targets[: rows // 4] = IGNORED  # the first of four, for any number of processes that divides 24
        case "a process in which nothing counts":
            targets[chance < density] = IGNORED
            targets[: rows // 2] = IGNORED  # the first of two or of three
        case "a partial last window":
            targets[-1, T // 2 :] = IGNORED
        case "one target":
            targets[:] = IGNORED
            targets[rows // 3, 2] = 5
        case _:
            raise AssertionError(kind)
    return ids, targets


KINDS = (
    "all count",
    "unequal counts",
    "a micro-batch in which nothing counts",
    "a process in which nothing counts",
    "a partial last window",
    "one target",
)


def model_of(recipe: Recipe, dtype: str, device: str = "cpu") -> GPT:
    """A small model of a recipe, with sharp weights."""
    return build(CONFIG, recipe, sharp_state_dict(CONFIG, 0), device, getattr(torch, dtype))


def share(tensor: Tensor, rank: int, world: int) -> Tensor:
    """A process's rows of a batch."""
    rows = len(tensor) // world
    return tensor[rank * rows : (rank + 1) * rows]


def micro(pieces: int, world: int) -> int:
    """Rows of a micro-batch, for that many of them."""
    return -(-(ROWS // world) // pieces)


def gradients(
    rank: int, world: int, device: str = "cpu"
) -> dict[tuple[str, str, int], tuple[Tensor, dict[str, Tensor]]]:
    """Loss and canonical gradients by recipe, kind of batch and number of micro-batches."""
    found = {}
    for recipe_name, recipe in RECIPES.items():
        model = model_of(recipe, "float64", device)
        for pieces in MICRO_BATCHES:
            step = build_step(model, recipe, micro_batch=micro(pieces, world))
            if device != "cpu":
                step.exchange = DataParallel(model)  # though one process has a group to itself
            for kind in KINDS:
                ids, targets = (share(one, rank, world).to(device) for one in batch(kind))
                assert len(ids.split(micro(pieces, world))) == pieces
                step.optimizer.zero_grad()
                loss = step.gradients(ids, targets)
                own = {name: p.grad for name, p in model.named_parameters()}
                canonical = {name: tensor.cpu() for name, tensor in to_canonical(model, own).items()}
                found[recipe_name, kind, pieces] = loss.cpu(), canonical
    return found


def runs(rank: int, world: int, device: str = "cpu", names: Iterable[str] = RUNS) -> dict[str, dict[str, Any]]:
    """Losses, gradient norms and updates of 20 steps with clipping, by recipe and precision, in two micro-batches."""
    found = {}
    for name in names:
        recipe, dtype = RUNS[name]
        model = model_of(recipe, dtype, device)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        step = build_step(model, recipe, learning_rate=1e-3, clip=0.5, micro_batch=micro(2, world))
        losses, norms = [], []
        for number in range(STEPS):
            ids, targets = (share(one, rank, world).to(device) for one in batch("unequal counts", seed=number))
            losses.append(step(ids, targets))
            norms.append(step.gradient_norm)
        update = {key: tensor - before[key] for key, tensor in model.state_dict().items()}
        found[name] = {"losses": losses, "norms": norms, "update": update, "step": step.optimizer.state_dict()["step"]}
        if "compile" in recipe:
            found[name]["graphs"] = model.run.graphs  # type: ignore[attr-defined]
    return found


def exchanges(world: int) -> dict[int, int]:
    """How often gradients are exchanged in one step, by the number of micro-batches."""
    counts = {}
    for pieces in MICRO_BATCHES:
        step = build_step(model_of(PLAIN, "float64"), only("ddp"), micro_batch=micro(pieces, world))
        calls: list[int] = []
        watch(step, calls)
        ids, targets = (share(one, dist.get_rank(), world) for one in batch("unequal counts"))
        step(ids, targets)  # after the first, gradients are put into buckets again
        calls.clear()
        step(ids, targets)
        counts[pieces] = len(calls)
    return counts


def watch(step: TrainingStep, calls: list[int]) -> None:
    """Note down every exchange of a bucket of gradients."""
    exchange: Any = step.exchange
    assert isinstance(exchange, DataParallel)

    def hook(group, bucket):  # type: ignore[no-untyped-def]  # annotations as text are refused
        calls.append(bucket.index())
        return allreduce_hook(group, bucket)

    exchange.replica.register_comm_hook(None, hook)


def graphs_with_small_buckets() -> int:
    """The number of graphs of a compiled model with gradient buckets smaller than a block; counted, not compiled."""

    def count(run: CompiledBlocks, graph: Any, inputs: list[Any]) -> Any:
        run.graphs += 1
        return graph

    recipe, config = only("compile", "ddp"), GPTConfig(8, CONFIG.vocab_size, n_layer=1, n_head=2, n_embd=256)
    model = build(config, recipe)
    step = build_step(model, recipe)
    exchange: Any = step.exchange
    exchange.replica.bucket_bytes_cap = 2**20  # a block has three times as much
    ids, targets = batch("all count", rows=4)
    with patch.object(CompiledBlocks, "backend", count):
        step(ids[:, :8], targets[:, :8])
    return model.run.graphs  # type: ignore[attr-defined,no-any-return]
