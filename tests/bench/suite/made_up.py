"""A made-up result of the suite, in the form that a run writes."""

from __future__ import annotations

import copy
from typing import Any

from bench.suite.result_file import VERSION
from bench.timing.interleave import Timings
from bench.timing.peak_memory import Peak
from bench.timing.ratios import Ratio
from bench.timing.worker import Compiled

ENVIRONMENT: dict[str, Any] = {
    "device": "Some CPU",
    "identity": {"name": "Some CPU", "instruction_sets": ["AVX2"], "limits": {}, "threads": 2},
    "device_kind": "cpu",
    "device_memory": 10**10,
    "computes_bfloat16": True,
    "cpu": "Some CPU",
    "cpu_flags": ["avx2"],
    "cores": {"physical": 2, "logical": 2},
    "memory": 10**10,
    "load": 0.0,
    "clocks": {"now": None, "most": None},
    "threads": 2,
    "matmul_precision": "highest",
    "cuda": None,
    "system": "Some system",
    "python": "3.12.0",
    "packages": {"torch": "2.13.0", "transformers": "5.1.0", "numpy": "2.0.0"},
    "commit": "0" * 40,
}


def case(contender: str, rate: float, ratio: float, task: str = "training_step") -> dict[str, Any]:
    interval = {"median": ratio, "low": ratio * 0.98, "high": ratio * 1.02, "confidence": 0.95}
    return {
        "name": f"smoke/training/{task}/{contender}",
        "workload": "smoke",
        "size": "tiny",
        "scenario": "training",
        "task": task,
        "contender": contender,
        "description": contender,
        "precision": "float32",
        "batch": 8,
        "time": 64,
        "tokens": 512,
        "tokens_per_second": rate,
        "spread": 0.01,
        "seconds": [512 / rate] * 5,
        "rounds": [5],
        "first": 1.0,
        "compile": {"graphs": 0, "seconds": 0.0},
        "flops_per_token": 1e6,
        "flops_per_second": 1e6 * rate,
        "mfu": {"measured": 0.5, "data_sheet": None},
        "floor": {"seconds": 0.1, "share": 0.5},
        "memory": {"peak": 10**8, "baseline": 10**8, "method": "resident"},
        "parity": {"over": {"float32": 0.5}, "logits": 1e-6, "shape": [8, 64]},
        "ratios": {"reference": interval},
    }


def result(**changes: Any) -> dict[str, Any]:
    made = {
        "kind": "suite",
        "version": VERSION,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 100.0,
        "arguments": {"quick": False, "device": "cpu", "workloads": [], "contenders": [], "threads": 2},
        "environment": copy.deepcopy(ENVIRONMENT),
        "workloads": [
            {
                **{"name": "smoke", "size": "tiny", "config": {"bias": True}, "parameters": 120_576, "batch": 8},
                **{"time": 64, "precision": "float32"},
            }
        ],
        "roofline": None,
        "parity": [
            {
                "size": "tiny",
                "contender": name,
                "passed": True,
                "over": {"float32": 0.5},
                "logits": 1e-6,
                "shape": [8, 64],
                "why": "",
                "unlike": "",
                "checks": [],
            }
            for name in ("reference", "full")
        ],
        "cases": [case("reference", 1000.0, 1.0), case("full", 2000.0, 2.0)],
        "components": [],
        "ablation": [],
        "scaling": [],
        "aa_test": None,
        "left_out": [],
    }
    return {**made, **changes}


def made_up_timings(seconds: float = 1.0, rounds: int = 3, **anchors: float) -> Timings:
    """Timings of equal rounds, with ratios to anchors of the given seconds."""
    times = {anchor: Ratio(s / seconds, 0.9 * s / seconds, 1.2 * s / seconds) for anchor, s in anchors.items()}
    peak = Peak(1, 1, "resident")
    return Timings(
        [seconds] * rounds, [rounds], 2.0, Compiled(0, 0.0), 0, peak, times or {"reference": Ratio(1.0, 1.0, 1.0)}
    )
