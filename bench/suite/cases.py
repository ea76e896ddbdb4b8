"""One number of a whole model, as bench/suite/result_file.py describes it."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from bench.contenders import find
from bench.contenders.gate import proof_key
from bench.suite.session import Session
from bench.timing.interleave import Timings
from bench.workloads.scenarios import TEXTS, flops_per_token, rows_of, text_shape, tokens_of
from bench.workloads.workload import Workload

UNKNOWN = {"measured": None, "data_sheet": None}


def add_case(session: Session, work: Workload, scenario: str, task: str, name: str, timings: Timings) -> dict[str, Any]:
    """An entry of `cases` for a proven contender; kept for the result."""
    proof, ceilings = session.gate.found[proof_key(work, name)], session.ceilings
    assert proof.passed, "no parity pass, no number"
    precision = session.gate.precision_of(name, work)
    prompt, new = text_shape(work, scenario)
    tokens, seconds = tokens_of(work, scenario, task), median(timings.seconds)
    flops = flops_per_token(work, task)
    rate = flops * tokens / seconds
    case = {
        "name": f"{work.name}/{scenario}/{task}/{name}",
        "workload": work.name,
        "size": work.size,
        "scenario": scenario,
        "task": task,
        "contender": name,
        "description": find(name).description,
        "precision": precision,
        "batch": rows_of(work, scenario, task),
        **({"prompt": prompt, "new": new} if task in TEXTS else {"time": work.time}),
        "tokens": tokens,
        **timings.speed(tokens),
        "first": timings.first,
        "compile": asdict(timings.compiled),
        "flops_per_token": flops,
        "flops_per_second": rate,
        "mfu": UNKNOWN if ceilings is None else ceilings.mfu(precision, rate),
        "floor": ceilings and ceilings.floor(work.name, scenario, task, precision, seconds),
        "memory": timings.memory.record(),
        "parity": {"over": proof.over, "logits": proof.logits, "shape": list(proof.shape)},
    }
    session.cases.append(case)
    return case
