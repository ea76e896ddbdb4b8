"""Components by themselves: attention, loss, optimizer, tokenizers, batches, checkpoints, bpe.

Components of a group are timed in turn, in their own process (bench/suite/component_timing.py). pytest-benchmark gets
its samples by replay (bench/suite/replay.py).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from bench.suite import bpe, component_timing
from bench.suite.component_timing import Outcome
from bench.suite.components import COMPONENTS
from bench.suite.replay import CLOCK, report
from bench.suite.session import LeftOut, Session
from bench.workloads.scenarios import named

Groups = dict[tuple[str, str, str], dict[str, Outcome] | Exception]  # by device, workload and group


@pytest.fixture(scope="module")
def groups() -> Groups:
    """The measured groups: each is measured once, for the first test of its components."""
    return {}


@pytest.mark.benchmark(timer=CLOCK)
def test_component(
    component: tuple[str, str, str], sessions: dict[str, Session], groups: Groups, benchmark: Any
) -> None:
    device, workload, name = component
    session, group = sessions[device], COMPONENTS[name].group
    session.check_memory(named(workload), "training")
    key = (device, workload, group)
    if key not in groups:
        session.tell(f"{workload}: {group}, in turn")
        session.give_back()
        try:
            groups[key] = kept(session, workload, group)
        except Exception as error:
            groups[key] = error  # so that it is not tried again
    found = groups[key]
    if isinstance(found, Exception):
        raise found
    row = found[name].row
    if row is None:
        pytest.fail(found[name].failure, pytrace=False)
    session.components.append(row)
    report(benchmark, f"{device}: {group}, {workload}", row["seconds"], {**row, "environment": session.environment})


def kept(session: Session, workload: str, group: str) -> dict[str, Outcome]:
    """All components of a group, measured now or by the stopped run that this one continues."""

    def measured() -> dict[str, Any]:
        found = component_timing.measure(
            group, workload, session.device, session.plan.seconds, with_memory=not session.quick
        )
        return {name: asdict(outcome) for name, outcome in found.items()}

    return {
        name: Outcome(**outcome) for name, outcome in session.keep("components", [workload, group], measured).items()
    }


def test_bpe(device: str, sessions: dict[str, Session]) -> None:
    session = sessions[device]
    session.tell(f"{bpe.GROUP}: the lesson and the tokenizers library in turn")
    try:
        found = session.keep(bpe.GROUP, None, bpe.measure)
    except LeftOut as reason:
        raise session.leave_out(str(reason)) from None
    error = bpe.error_of(found)
    if not error <= bpe.ALLOWED:
        pytest.fail(f"no parity pass, no number: {error:.1%} more or fewer tokens than the library's", pytrace=False)
    session.components += bpe.rows(found, session.plan.components[0])
