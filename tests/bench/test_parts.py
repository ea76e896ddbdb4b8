"""Parts of the suite: each held against the readable one, each with memory of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import parts
from bench.parts import ALLOWED, PARTS
from bench.peak import peak_memory
from bench.suite import named

CPU = torch.device("cpu")
WORK = named("smoke")


@pytest.mark.parametrize("name", PARTS)
def test_every_part_runs_and_is_the_readable_one(name: str, tmp_path: Path) -> None:
    prepared = PARTS[name].prepare(WORK, CPU, tmp_path)
    assert prepared.amount > 0
    for _ in range(2):
        prepared.call()
    assert prepared.error() <= ALLOWED


def test_every_part_of_the_issue_is_there() -> None:
    groups = {part.group for part in PARTS.values()}
    assert groups == {
        *("attention", "head and loss", "optimizer", "tokenizer, encode", "tokenizer, decode", "batches", "checkpoint")
    }


@pytest.mark.parametrize(
    "name,place,wrong",
    [
        ("attention, sdpa", "FlashAttention", lambda config: lambda q, k, v: q * 0.5 + v),
        ("head and loss, fused", "fused_loss", lambda x, table, targets: parts.plain_loss(x * 1.001, table, targets)),
    ],
)
def test_a_part_that_is_another_function_is_found(
    name: str, place: str, wrong: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parts, place, wrong)
    assert PARTS[name].prepare(WORK, CPU, tmp_path).error() > ALLOWED


def test_the_memory_of_a_part_is_that_of_its_call_alone() -> None:
    def peak(name: str) -> int:
        argument = {"part": name, "workload": "mini", "device": "cpu", "threads": 1}
        return peak_memory("bench.parts:weigh", argument).bytes

    logits = 4 * 4 * 128 * 50257  # float32, B T V
    assert peak("head and loss, plain") > 2 * logits
    assert peak("head and loss, fused") < 2 * logits
