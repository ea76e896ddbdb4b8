"""What is measured: workloads, their scenarios and contenders, and the time for each; what a device leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.contenders import able, find
from bench.contenders.contender import always
from bench.contenders.gate import STEPS
from bench.workloads.scenarios import EVERY_SCENARIO, WORKLOADS, named
from bench.workloads.workload import Workload
from optimized.hardware import hardware_of
from optimized.recipe import left_out

LIBRARIES = ("x-transformers", "keras-hub")  # if installed
PEERS = (
    *("reference", "huggingface-eager", "huggingface-sdpa", "huggingface-bf16", "huggingface-best"),
    *(*LIBRARIES, "plain", "optimized", "full-float32"),
)
ALL_PEERS = (*PEERS, "huggingface-compiled")
FEW = ("reference", "huggingface-sdpa", "plain", "optimized")
LARGE = ("reference", "huggingface-sdpa", "huggingface-best", "plain", "optimized")
BASE = "reference"  # of the ratios


@dataclass(frozen=True)
class Row:
    """One row of a plan."""

    workload: str
    scenarios: tuple[str, ...]
    contenders: tuple[str, ...]
    launches: int = 1  # of every process, for the last task of each scenario
    own: Workload | None = None  # a workload that is not in bench/workloads/scenarios.py

    @property
    def work(self) -> Workload:
        """Its workload."""
        return named(self.workload) if self.own is None else self.own

    def record(self) -> dict[str, Any]:
        """The workload as plain values."""
        work = self.work
        shape = {"size": work.size, "config": asdict(work.config), "parameters": work.config.parameter_count()}
        return {"name": work.name, **shape, "batch": work.batch, "time": work.time}


@dataclass(frozen=True)
class Plan:
    """The measurements of a run."""

    rows: tuple[Row, ...]
    components: tuple[str, ...]  # workloads that give their shapes; components of one size: once, not in a quick run
    ladder: Row | None  # of the ablation; its contenders are the recipes of bench/suite/ablation.py
    scaling: bool
    seconds: float  # of timing per task and contender, about
    rounds: tuple[int, int]  # at least and at most
    ceilings: bool = True  # whether to measure the device's rates, for MFU and floors
    precision: str = "float32"  # of the contenders that do not choose their own
    proof_steps: int | None = STEPS  # of AdamW; None: by the size
    seed: int = 0  # of the proof's weights and tokens
    left_out: tuple[str, ...] = ()  # lines: what is not measured by default, and the option for it

    @property
    def contenders(self) -> tuple[str, ...]:
        """The contenders of all rows."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.contenders))

    def without(self, names: Mapping[str, str]) -> Plan:
        """This plan without some contenders, each with a line that says why."""
        rows = tuple(replace(row, contenders=tuple(n for n in row.contenders if n not in names)) for row in self.rows)
        return replace(self, rows=rows, left_out=(*self.left_out, *names.values()))


QUICK = Plan(
    (Row("smoke", EVERY_SCENARIO, FEW), Row("mini-64", ("training",), FEW)),
    components=("smoke",),
    ladder=None,
    scaling=False,
    seconds=0.5,
    rounds=(5, 50),
    left_out=("tokenizers, batches and checkpoints, ablation and curves: are measured without --quick",),
)
CPU = Plan(
    (
        Row("smoke", EVERY_SCENARIO, FEW),
        Row("mini", ("training", "text"), PEERS),
        Row("gpt2-128", ("training", "text"), LARGE),
    ),
    components=("mini-64",),
    ladder=Row("mini-64", ("ladder",), (), launches=3),
    scaling=True,
    seconds=0.4,
    rounds=(3, 50),
    left_out=(
        "gpt2 and gpt2-xl at 1,024 tokens: take longer than all the rest: give --workloads gpt2",
        "huggingface-compiled: huggingface-best is compiled too: give --contenders huggingface-compiled",
    ),
)
ACCELERATOR = Plan(
    (
        Row("smoke", EVERY_SCENARIO, ALL_PEERS),
        Row("mini", EVERY_SCENARIO, ALL_PEERS),
        Row("gpt2-512", EVERY_SCENARIO, ALL_PEERS),
        Row("gpt2", EVERY_SCENARIO, ALL_PEERS),
        Row("gpt2-xl", EVERY_SCENARIO, LARGE),
    ),
    components=("mini", "gpt2"),
    ladder=Row("gpt2-512", ("ladder",), (), launches=3),
    scaling=True,
    seconds=2.0,
    rounds=(5, 50),
)


def plan_for(device_type: str, quick: bool, workloads: Sequence[str] = (), contenders: Sequence[str] = ()) -> Plan:
    """The plan of a device, narrowed to some workloads and contenders by name.

    A workload that is not in the plan gets every scenario, with the contenders `LARGE`. The base of the ratios always
    takes part. Raises ValueError, one line, for an unknown workload.
    """
    plan = QUICK if quick else CPU if device_type == "cpu" else ACCELERATOR
    for name in workloads:
        if name not in WORKLOADS:
            raise ValueError(f"unknown workload {name!r}: give some of {', '.join(WORKLOADS)}")
    rows = plan.rows
    if workloads:
        known = {row.workload: row for row in rows}
        rows = tuple(known.get(name, Row(name, EVERY_SCENARIO, LARGE)) for name in workloads)
    if contenders:
        names = tuple(dict.fromkeys((BASE, *contenders)))
        rows = tuple(replace(row, contenders=names) for row in rows)
    return replace(plan, rows=rows, left_out=() if workloads or contenders else plan.left_out)


def of_able(plan: Plan) -> Plan:
    """A plan without contenders that cannot run here, as a package is missing, or in its precision."""
    return plan.without({name: line for name in plan.contenders for line in able([name], plan.precision)[1]})


def left_out_of_optimized(plan: Plan, device: torch.device) -> list[str]:
    """A line for each rung that the best recipe leaves out at a workload of the plan."""
    dtype = "float64" if plan.precision == "float64" else "float32"
    found: dict[str, list[str]] = {}
    for row in plan.rows:
        if "optimized" in row.contenders:
            for name, why in left_out(str(device), dtype, row.work.config).items():
                found.setdefault(f"{name}: {why}", []).append(row.workload)
    return [f"optimized at {', '.join(where)} leaves out {what}" for what, where in found.items()]


def without_emulation(plan: Plan, device: torch.device) -> Plan:
    """A plan without contenders that would emulate bfloat16 on a device.

    One emulated training step takes longer than all other measurements at its size.
    """
    if hardware_of(str(device)).bfloat16:
        return plan
    names = [name for name in plan.contenders if find(name).uses_bfloat16 is always]
    return plan.without({n: f"{n}: would emulate bfloat16 on this device: give --contenders {n}" for n in names})
