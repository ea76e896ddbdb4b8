"""Results with everything that a whole run has, every number of its own, so that each can be found again."""

from __future__ import annotations

import random
from typing import Any

from bench.report.result_keys import AA_TEST, ABLATION, COMPONENT, COMPONENTS, LEAVE_ONE_OUT, SCENARIO
from tests.bench.suite.made_up import ENVIRONMENT, case, result

RUNGS = ("fused_qkv", "sdpa", "kv_cache")
CUDA: dict[str, Any] = {
    **{**ENVIRONMENT, "device": "NVIDIA <H100> & more", "device_kind": "cuda", "cuda": "13.0"},
    "identity": {"name": "NVIDIA <H100> & more", "instruction_sets": [], "limits": {}, "threads": None},
}


def whole(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A result of a whole run."""
    drawn = random.Random(seed)

    def rate() -> float:
        return drawn.uniform(1000.0, 9000.0)

    def memory() -> int:
        return drawn.randrange(10**8, 9 * 10**8)

    def ratio() -> dict[str, float]:
        middle = drawn.uniform(0.7, 3.0)
        return {"median": middle, "low": middle * 0.97, "high": middle * 1.04, "confidence": 0.95}

    def effect(contender: str) -> dict[str, Any]:
        compiled = {"graphs": 0, "seconds": 0.0}
        return {
            **{"contender": contender, "ratio": ratio(), "tokens_per_second": rate(), "spread": 0.02},
            **{"rounds": [2, 2, 2], "memory": memory(), "compile": compiled},
        }

    def measured(contender: str, task: str, precision: str) -> dict[str, Any]:
        one = case(contender, rate(), 1.0, task)
        one |= {"ratios": {"reference": ratio()}, "precision": precision, "flops_per_second": 1e8 * rate()}
        one["memory"] |= {"peak": memory()}
        one["floor"] = {"seconds": drawn.uniform(0.01, 0.02), "share": drawn.uniform(0.1, 0.9)}
        return one

    tasks = ("loss_and_gradient", "training_step")
    contenders = {
        **{"reference": "float32", "huggingface-sdpa": "float32", "huggingface-best": "bfloat16"},
        **{"full": "bfloat16", "a-name-that-takes-room": "float32"},
    }
    floors = [
        {
            **{"workload": "smoke", SCENARIO: "training", "task": task, "precision": precision},
            **{"operations": 10**9, "bytes": 10**9 * number, "seconds_of_operations": 0.01, "seconds_of_bytes": 0.002},
            "seconds": 0.012,
        }
        for number, task in enumerate(tasks, 1)
        for precision in ("float32", "bfloat16")
    ]
    ceiling = {"measured": 1.5e11, "data_sheet": None}
    made = result(
        cases=[measured(name, task, precision) for task in tasks for name, precision in contenders.items()],
        roofline={
            "rates": [],
            "bandwidths": [],
            "ceilings": {"float32": ceiling, "bfloat16": {"measured": 3.1e11, "data_sheet": 9.9e14}},
            "bandwidth": {"measured": 2.5e10, "data_sheet": None},
            "floors": floors,
        },
        **{
            ABLATION: [
                {
                    **{"rung": rung, "claim": "the same", "loses": f"where {rung} <does not> pay", "workload": "mini"},
                    **{"batch": 4, "time": 128},
                    **{"in_full": True, "parity": {"float32": 0.25}},
                    "tasks": {
                        task: {
                            "alone": effect(rung),
                            LEAVE_ONE_OUT: None if rung == "sdpa" else effect(f"without-{rung}"),
                            "cumulative": effect(f"upto-{rung}"),
                        }
                        for task in ("training_step", "per_token")
                    },
                }
                for rung in RUNGS
            ]
        },
        scaling=[
            {
                **{"axis": axis, "value": value, "contender": name, "batch": 2, "time": 128, "config": {}},
                **{
                    "tokens_per_second": rate(),
                    "spread": 0.03,
                    "memory": memory(),
                    "seconds": [0.1] * 5,
                    "rounds": [5],
                },
                **{"ratios": {"plain": ratio()}, "parity": {"float32": 0.1}},
            }
            for axis, values in {"time": (64, 128, 256), "vocabulary": (1024, 65536)}.items()
            for value in values
            for name in ("plain", "sdpa", "fused_loss")
        ],
        **{
            COMPONENTS: [
                {
                    **{
                        "name": "mini/sdpa",
                        COMPONENT: "sdpa",
                        "workload": "mini",
                        "group": "attention",
                        "description": "",
                    },
                    **{"unit": "tokens", "amount": 512, "per_second": rate(), "spread": 0.01, "seconds": [0.1]},
                    **{"memory": None, "error": 1e-7},
                }
            ]
        },
        **{
            AA_TEST: {
                **{"contender": "reference", "workload": "smoke", "task": "training_step"},
                **{
                    "ratio": {"median": 1.0, "low": 0.98, "high": 1.03, "confidence": 0.875},
                    "launches": [ratio(), ratio()],
                },
            }
        },
        left_out=["gpt2-xl/training: needs about 30.0 GB of memory & <more> | or less: left out"],
    )
    made["parity"] += [
        proof("tiny", "x-transformers", 7.5e3, "logits in float32: 7.5e+03 times its budget", "no biases"),
        *(proof("ladder", name, drawn.uniform(0.1, 0.9)) for name in ("plain", *RUNGS)),
        *(proof(f"scaling-time-{value}", name, 0.2) for value in (64, 128) for name in ("plain", "sdpa")),
    ]
    return {**made, **changes}


def proof(size: str, contender: str, over: float, why: str = "", unlike: str = "") -> dict[str, Any]:
    """One proof, which failed if there is a reason."""
    return {
        **{"size": size, "contender": contender, "passed": not why, "over": {"float32": over}},
        **{"logits": 1e-6, "shape": [8, 64], "why": why, "unlike": unlike},
    }
