"""Made-up results of `bench compare` and `bench roofline`, with numbers as wide as real ones can be."""

from __future__ import annotations

from typing import Any

from tests.bench.suite.made_up import ENVIRONMENT, case, result

GRADIENTS = ("h.10.attn.q_proj.weight", "h.0.ln_1.weight", "h.11.mlp.c_proj.weight", "wte.weight")
NAMES = ("reference", "huggingface-eager", "huggingface-sdpa", "full")


def compare_result() -> dict[str, Any]:
    """A result with four proven contenders, one of them in two checks, and one that is another function."""
    work = {
        **{"name": "gpt2-xl", "size": "gpt2-xl", "config": {"bias": True}, "parameters": 1_557_611_200, "batch": 64},
        **{"time": 1024, "precision": "float32"},
    }
    rates = {"forward": 1_234_567.0, "training_step": 234_567.0, "generation": 24.56}
    failed = {"quantity": "logits", "name": "logits", "error": 8.7e-1, "largest": 1.0, "allowed": 5e-6}
    other = proof("x-transformers", 4)
    other |= {"passed": False, "unlike": "it has no biases in its attention and its norms"}
    other["checks"][0]["failures"] = [failed]
    return result(
        kind="compare",
        workloads=[work],
        parity=[*(proof(name, number) for number, name in enumerate(NAMES)), other],
        cases=[timed(n, name, task, rate + n) for task, rate in rates.items() for n, name in enumerate(NAMES)],
        left_out=["keras-hub: needs the package 'keras', which is not installed: pip install keras"],
    )


def timed(number: int, name: str, task: str, rate: float) -> dict[str, Any]:
    """A contender's case in a task."""
    made = case(name, rate, 10.04 + number, task)
    made |= {"workload": "gpt2-xl", "size": "gpt2-xl", "scenario": "compare", "spread": 0.12, "first": 9.0}
    made |= {"seconds": [1.0] * 7, "rounds": [7], "batch": 64, "time": 1024, "floor": None}
    made |= {"precision": "bfloat16" if name == "full" else "float32", "compile": {"graphs": 1, "seconds": 123.4}}
    made["mfu"] = {"measured": None, "data_sheet": None}
    made["memory"] = {"peak": 13_050_000_000 + number * 10**9, "baseline": 10**9, "method": "resident"}
    if task == "generation":
        del made["time"]
        made |= {"batch": 1, "prompt": 32, "new": 128}
    return made


def proof(name: str, number: int) -> dict[str, Any]:
    """A contender's proof in one check, and for `full` in a second one."""
    worst = {
        quantity: {"quantity": quantity, "name": GRADIENTS[number % 4], "error": error * (1 + number), "allowed": 1e-5}
        for quantity, error in {"logits": 1.2e-6, "loss": 3.1e-8, "gradient": 6.5e-6, "trajectory": 3.6e-7}.items()
    }
    check = {
        **{"question": "function", "precision": "float32", "weights": "sharp", "shape": [64, 1024]},
        **{"gradient_shape": [2, 64], "steps": 20, "oracle": "huggingface-eager in float64", "top1": 1.0},
        **{"over": 0.61 + number, "worst": worst, "failures": []},
    }
    rounding = {**check, "question": "rounding", "precision": "bfloat16", "weights": "typical"}
    return {
        **{"size": "gpt2-xl", "contender": name, "passed": True, "over": {"float32": 0.61}, "logits": 1e-6},
        **{"shape": [64, 1024], "why": "", "unlike": "", "checks": [check, rounding] if name == "full" else [check]},
    }


def roofline_result() -> dict[str, Any]:
    """A result of an accelerator with three precisions and floors with long numbers."""
    shapes = {"square": (8192, 8192, 8192), "qkv": (65536, 1600, 4800), "head": (65536, 1600, 50257)}
    precisions = ("float32", "tf32", "bfloat16")
    rates = [
        {
            "precision": precision,
            "product": {"name": name, "rows": shape[0], "inner": shape[1], "columns": shape[2], "count": 1},
            "direction": direction,
            "flops_per_second": 7.0e14 + 1e12 * (9 * row + 3 * column + at),
        }
        for row, (name, shape) in enumerate(shapes.items())
        for column, precision in enumerate(precisions)
        for at, direction in enumerate(("forward", "input", "weight"))
    ]
    floors = [
        {
            **{"workload": workload, "scenario": scenario, "task": task, "precision": precision},
            **{"operations": 123_456 * 10**9, "bytes": 123_450_000_000, "seconds_of_operations": 12.3456},
            **{"seconds_of_bytes": 1.2345, "seconds": 13.5791},
        }
        for workload in ("gpt2-128", "gpt2-xl")
        for scenario, task in (("training", "loss_and_gradient"), ("texts", "per_token"))
        for precision in precisions
    ]
    ceiling = {"measured": 7.777e14, "data_sheet": 9.89e14}
    return {
        "environment": ENVIRONMENT,
        "roofline": {
            "emulated": [],
            "rates": rates,
            "bandwidths": [{"block": 537_000_000, "copy": 3.123e12, "read": 2.987e12}],
            "ceilings": dict.fromkeys(precisions, ceiling),
            "bandwidth": {"measured": 3.123e12, "data_sheet": 4.8e12},
            "floors": floors,
        },
    }
