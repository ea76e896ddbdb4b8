"""A pytest plugin for runs of the suite: sends a real signal to its process group at named places, like a user.

Proofs and the roofline, which take long, are faked. Environment variables: STRIKE_AT, comma-separated places, each
struck once, in this order; STRIKE_WITH, the signal's name.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

import pytest

PLACES = [place for place in os.environ.get("STRIKE_AT", "").split(",") if place]
KIND = signal.Signals[os.environ.get("STRIKE_WITH", "SIGINT")]


def strike(place: str) -> None:
    """Send the signal if this is the next place."""
    if PLACES and PLACES[0] == place:
        del PLACES[0]
        os.killpg(os.getpgrp(), KIND)


class AtImport:
    """A finder that finds nothing but strikes when torch is imported."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "torch":
            strike("import")


sys.meta_path.insert(0, AtImport())  # type: ignore[arg-type]


def pytest_configure() -> None:
    """Replace the slow functions; the suite's conftest is imported by now."""
    from bench.contenders.gate import GateResult, ParityGate
    from bench.roofline.roofline import Bandwidth, Roofline
    from bench.suite import result_file
    from bench.timing.worker import Worker
    from reference.cli import interrupts

    if os.environ.get("PATIENT"):  # so that a slow machine still writes its result
        interrupts.GRACE = 600.0
    save, time = result_file.save, Worker.time

    def prove(gate: ParityGate, work: Any, names: list[str], texts: bool) -> dict[str, dict[str, Any]]:
        gate.tell("proving")
        strike("proof")
        try:
            strike("in a long operation")
        except KeyboardInterrupt:  # raised only when the operation is over
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)
        found = GateResult(True, {"float32": 0.5}, 1e-7, (work.batch, work.time), "")
        return {name: asdict(found) for name in names}

    def time_and_strike(worker: Worker, task: str, calls: int = 1) -> float:
        strike(f"round of {task}")
        return time(worker, task, calls)

    def save_and_strike(*arguments: Any) -> None:
        strike("saving")
        save(*arguments)

    ParityGate.prove = prove  # type: ignore[method-assign]
    Roofline.time_product = lambda *_: 1e9  # type: ignore[method-assign]
    Roofline.time_block = lambda roofline, block: Bandwidth(block, 1e9, 1e9)  # type: ignore[method-assign]
    Worker.time = time_and_strike  # type: ignore[method-assign]
    result_file.save = save_and_strike
    strike("start")


def pytest_itemcollected(item: pytest.Item) -> None:
    strike("collection")


def pytest_runtest_logfinish(nodeid: str) -> None:
    strike("after a test")
