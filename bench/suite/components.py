"""The components of a model and of a run, each by itself: the readable version and the fast one.

A component is first compared with its readable counterpart; if it differs, it gets no number. To add one, write a
function that prepares it and add its row to `COMPONENTS`. Its name begins with the name of its file (optimized/loss.py,
reference/data/tokenizers.py); a rung follows by its own name. bench/suite/component_timing.py computes ratios to the
first component of a group.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import optimized
from bench.numerics.errors import distance
from bench.numerics.inputs import random_batch
from bench.timing.ratios import synchronise
from bench.workloads.memory import give_back_freed
from bench.workloads.scenarios import named
from bench.workloads.workload import Workload
from optimized import PLAIN, only
from optimized.attention import ExplicitAttention, FlashAttention
from optimized.embedding import ExactTable
from optimized.loss import fused_loss, plain_loss
from optimized.optimizer import CanonicalAdamW, FusedAdamW
from reference import GPT
from reference.checkpoints.checkpoint import Checkpoint, load, save
from reference.data.batches import Batches
from reference.data.embedded_texts import pydocs
from reference.data.tokenizers import build_tokenizer

# largest relative L2 error against the readable component, in float32: the budget of a float32 gradient in
# bench/numerics/budgets.py
ALLOWED = 1e-5


@dataclass(frozen=True)
class Prepared:
    """A component, ready to be timed."""

    call: Callable[[], object]
    amount: int  # units per call
    error: Callable[[], float]  # against the readable one; separate, so that its memory does not count


@dataclass(frozen=True)
class Component:
    """One row of the table."""

    name: str
    group: str  # components that do the same work and are timed in turn; ratios are to the first
    description: str
    unit: str
    prepare: Callable[[Workload, torch.device, Path], Prepared]  # the path is a folder to write to
    scales: bool = True  # whether to measure it at more than one size
    on_device: bool = True  # whether it runs on the device; else always on the CPU


def attention(fast: bool) -> Callable[[Workload, torch.device, Path], Prepared]:
    """Causal attention of one layer, forward and backward."""

    def prepare(work: Workload, device: torch.device, folder: Path) -> Prepared:
        c = work.config
        shape = (3, work.batch, c.n_head, work.time, c.head_size)
        qkv = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()

        def run(attend: Any) -> tuple[Tensor, Tensor]:
            out = attend(*qkv)
            (gradient,) = torch.autograd.grad(out.sum(), qkv)
            return out, gradient

        explicit, own = ExplicitAttention(c), FlashAttention(c) if fast else ExplicitAttention(c)
        return Prepared(lambda: run(own), work.tokens, lambda: furthest(run(own), run(explicit)))

    return prepare


def head_and_loss(fused: bool) -> Callable[[Workload, torch.device, Path], Prepared]:
    """Logits and cross-entropy, forward and backward."""

    def prepare(work: Workload, device: torch.device, folder: Path) -> Prepared:
        c = work.config
        table = ExactTable(c).to(device)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            table.weight.copy_(torch.randn(table.weight.shape, generator=generator) * 0.1)
        x = torch.randn((work.batch, work.time, c.n_embd), generator=generator).to(device).requires_grad_()
        targets = random_batch(c, work.batch, work.time)[1].to(device)

        def run(loss: Any) -> tuple[Tensor, ...]:
            value = loss(x, table, targets)
            return (value, *torch.autograd.grad(value, (x, table.weight)))

        own = fused_loss if fused else plain_loss
        return Prepared(lambda: run(own), work.tokens, lambda: furthest(run(own), run(plain_loss)))

    return prepare


def optimizer_step(fused: bool) -> Callable[[Workload, torch.device, Path], Prepared]:
    """Clipping at 1.0 and one AdamW update of all parameters."""

    def prepare(work: Workload, device: torch.device, folder: Path) -> Prepared:
        def build(kind: Any) -> Any:
            torch.manual_seed(0)  # of the weights
            model = optimized.build(work.config, PLAIN, None, device)
            generator = torch.Generator().manual_seed(1)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer = kind(model)
            optimizer.learning_rate = 1e-3
            return optimizer

        def update(optimizer: Any) -> tuple[Tensor, ...]:
            optimizer.clip(1.0)
            optimizer.step()
            return tuple(p.detach() for p in optimizer.parameters.values())

        kind = FusedAdamW if fused else CanonicalAdamW
        own = build(kind)

        def error() -> float:
            return furthest(update(build(kind)), update(build(CanonicalAdamW)))

        return Prepared(lambda: update(own), work.config.parameter_count(), error)

    return prepare


def tokenizer(name: str, decode: bool) -> Callable[[Workload, torch.device, Path], Prepared]:
    """Encode or decode Python's help texts; proven by a round trip."""

    def prepare(work: Workload, device: torch.device, folder: Path) -> Prepared:
        text = pydocs()[:100_000]
        own = build_tokenizer(name, text)
        # the timed call must not run before: a library sets up buffers in its first call, which count as memory
        ids = own.encode(text) if decode else []

        def error() -> float:
            return 0.0 if own.decode(own.encode(text)) == text else math.inf

        return Prepared((lambda: own.decode(ids)) if decode else (lambda: own.encode(text)), len(text), error)

    return prepare


def batches(work: Workload, device: torch.device, folder: Path) -> Prepared:
    """The batches of successive steps, from tokens in memory, moved to the device."""
    tokens = torch.arange(1_000_000)
    own = Batches(tokens, work.time, work.batch, seed=0)
    step = 0

    def following() -> object:
        nonlocal step
        step += 1
        return tuple(t.to(device) for t in own.at(step))

    def error() -> float:
        ids, targets = own.at(0)
        return 0.0 if torch.equal(ids + 1, targets) else math.inf

    return Prepared(following, work.tokens, error)


def checkpoint(reading: bool) -> Callable[[Workload, torch.device, Path], Prepared]:
    """Save a run with fsync, or load it and compare every hash."""

    def prepare(work: Workload, device: torch.device, folder: Path) -> Prepared:
        model = GPT(work.config)
        moments = FusedAdamW(optimized.build(work.config, only("fused_adamw"))).state_dict()
        whole = Checkpoint(1, work.config, model.state_dict(), moments, {"name": "byte"}, {})
        path = save(folder, whole)
        size = sum(file.stat().st_size for file in path.iterdir())

        def error() -> float:
            back = load(path)
            return furthest([back.model[n] for n in whole.model], list(whole.model.values()))

        return Prepared((lambda: load(path)) if reading else (lambda: save(folder, whole)), size, error)

    return prepare


COMPONENTS: dict[str, Component] = {
    component.name: component
    for component in (
        Component(
            "attention, explicit", "attention", "scores, mask and softmax written out", "tokens", attention(False)
        ),
        Component("attention, sdpa", "attention", "scaled_dot_product_attention", "tokens", attention(True)),
        Component("loss, plain", "loss", "all logits at once", "tokens", head_and_loss(False)),
        Component("loss, fused_loss", "loss", "in chunks, gradient at once", "tokens", head_and_loss(True)),
        Component(
            "optimizer, by hand", "optimizer", "clipping, then AdamW written out", "values", optimizer_step(False)
        ),
        Component(
            "optimizer, fused_adamw", "optimizer", "clipping, then the library's kernel", "values", optimizer_step(True)
        ),
        *(
            Component(
                f"tokenizers {name}, {'decode' if back else 'encode'}",
                f"tokenizers, {'decode' if back else 'encode'}",
                "100,000 characters of Python's help texts",
                "characters",
                tokenizer(name, back),
                scales=False,
                on_device=False,
            )
            for back in (False, True)
            for name in ("char", "byte", "gpt2")
        ),
        Component("batches", "batches", "one step's ids and targets", "tokens", batches, scales=False),
        Component(
            "checkpoint, save", "checkpoint, save", "forced to the disk", "bytes", checkpoint(False), False, False
        ),
        Component(
            "checkpoint, load", "checkpoint, load", "every hash compared", "bytes", checkpoint(True), False, False
        ),
    )
}


def furthest(actual: Any, expected: Any) -> float:
    """The largest relative L2 distance over pairs of tensors."""
    return max(distance(a, b)[0] for a, b in zip(actual, expected, strict=True))


def device_of(component: Component, device: torch.device) -> torch.device:
    """The device where a component runs."""
    return device if component.on_device else torch.device("cpu")


def first_call(argument: dict[str, Any]) -> Callable[[], int | None]:
    """Prepare a component for bench/timing/peak_memory.py; returns a function that calls it once."""
    torch.set_num_threads(argument["threads"])
    component = COMPONENTS[argument["component"]]
    device = device_of(component, torch.device(argument["device"]))
    folder = tempfile.TemporaryDirectory()  # removed when the process ends
    once = called_once(component.prepare(named(argument["workload"]), device, Path(folder.name)).call, device)

    def run() -> int | None:
        assert folder.name
        return once()

    return run


def called_once(call: Callable[[], object], device: torch.device) -> Callable[[], int | None]:
    """Prepare to measure one call's memory; the returned function makes the call and returns bytes, if on a GPU."""
    give_back_freed()  # else the call would reuse memory freed by the preparation and seem to need none
    if device.type == "cuda":
        # else there may be no peak to reset: some components have no tensor on the device before their call
        torch.cuda.init()  # type: ignore[no-untyped-call]

    def run() -> int | None:
        if device.type != "cuda":
            call()
            return None
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        synchronise(device)()
        return torch.cuda.max_memory_allocated(device) - held

    return run
