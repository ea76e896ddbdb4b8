"""What the benchmark suite measures: workloads, their scenarios and contenders, and the time for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.workloads.scenarios import EVERY_SCENARIO, WORKLOADS

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


@dataclass(frozen=True)
class Plan:
    """The default measurements of a run of the suite."""

    rows: tuple[Row, ...]
    components: tuple[str, ...]  # workloads that give their shapes; components of one size: once, not in a quick run
    ladder: Row | None  # of the ablation; its contenders are the recipes of bench/suite/ablation.py
    scaling: bool
    seconds: float  # of timing per task and contender, about
    rounds: tuple[int, int]  # at least and at most
    left_out: tuple[str, ...] = ()  # lines: what is not measured by default, and the option for it


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
