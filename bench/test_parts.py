"""Parts by themselves: attention, head and loss, optimizer, tokenizers, batches, checkpoints, learning byte pairs."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from bench import byte_pairs
from bench.parts import ALLOWED, PARTS
from bench.peak import peak_memory
from bench.session import LeftOut, Session
from bench.suite import named
from bench.throughput import interleave, rounds_within, spread, synchronise


def test_part(part: tuple[str, str, str], sessions: dict[str, Session], benchmark: Any, tmp_path: Path) -> None:
    device, workload, name = part
    session, row = sessions[device], PARTS[name]
    where = session.device if row.on_device else torch.device("cpu")
    session.check_part(workload)
    prepared = row.prepare(named(workload), where, tmp_path)
    error = prepared.error()
    if not error <= ALLOWED:
        pytest.fail(f"no parity pass, no number: {name} is off by {error:.1e}, allowed {ALLOWED:.0e}", pytrace=False)
    sync = synchronise(where)

    def once() -> None:
        prepared.call()
        sync()

    (one,) = interleave({name: once}, 1, 1, sync)[name]  # after a warm-up
    rounds = rounds_within(session.plan.seconds, one, least=3, most=200)
    benchmark.group = f"{device}: {row.group}, {workload}"
    benchmark.pedantic(once, setup=sync, rounds=rounds)
    seconds = list(benchmark.stats.stats.data)
    argument = {"part": name, "workload": workload, "device": str(where), "threads": torch.get_num_threads()}
    found = {
        "name": f"{workload}/{name}",
        "part": name,
        "workload": workload,
        "group": row.group,
        "description": row.description,
        "unit": row.unit,
        "amount": prepared.amount,
        "per_second": prepared.amount / median(seconds),
        "spread": spread(seconds),
        "seconds": seconds,
        "error": error,
        "memory": None if session.quick else peak_memory("bench.parts:weigh", argument).bytes,
    }
    session.parts.append(found)
    benchmark.extra_info.update(found, environment=session.environment)


def test_learning_byte_pairs(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    session.tell(f"{byte_pairs.GROUP}: the lesson and the tokenizers library in turn")
    try:
        found = byte_pairs.measure()
    except LeftOut as reason:
        raise session.leave_out(str(reason)) from None
    error = byte_pairs.error_of(found)
    if not error <= byte_pairs.ALLOWED:
        pytest.fail(f"no parity pass, no number: {error:.1%} more or fewer tokens than the library's", pytrace=False)
    session.parts += byte_pairs.rows(found, session.plan.parts[0])
