"""Scaling curves: speed and memory of a training step as one size grows.

PLAIN, PLAIN with sdpa, and PLAIN with the fused loss. At each point the three are timed in turn, each in its own
process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from bench.suite.session import LeftOut, Session
from bench.timing.interleave import Timings
from bench.workloads.workload import Workload
from reference.config import GPTConfig

# plain has explicit attention and the plain loss
CURVES = ("plain", "sdpa", "fused_loss")
MIDDLE = Workload(
    "scaling", GPTConfig(block_size=1024, vocab_size=8192, n_layer=2, n_head=4, n_embd=256), batch=2, time=128
)
AXES: dict[str, tuple[int, ...]] = {
    "time": (64, 128, 512),
    "batch": (1, 2, 8),
    "depth": (1, 2, 8),
    "width": (64, 256, 512),
    "vocabulary": (1024, 8192, 66560),  # the last has two chunks in the fused loss
}


@dataclass(frozen=True)
class Point:
    """A point of an axis; the middle is on every axis."""

    axis: str
    value: int
    work: Workload


def points() -> Iterator[Point]:
    """Yield every point of every axis. Each workload has its own size name; the middle is shared."""
    for axis, values in AXES.items():
        for value in values:
            work = moved(axis, value)
            yield Point(axis, value, work if work == MIDDLE else replace(work, size=size_of(axis, value)))


def size_of(axis: str, value: int) -> str:
    """The size name of a point other than the middle."""
    return f"{MIDDLE.size}-{axis}-{value}"


def moved(axis: str, value: int) -> Workload:
    """The middle with one size changed."""
    c = MIDDLE.config
    changed = {
        "time": lambda: MIDDLE.of_shape(MIDDLE.batch, value),
        "batch": lambda: MIDDLE.of_shape(value, MIDDLE.time),
        "depth": lambda: replace(MIDDLE, config=replace(c, n_layer=value)),
        "width": lambda: replace(MIDDLE, config=replace(c, n_embd=value)),
        "vocabulary": lambda: replace(MIDDLE, config=replace(c, vocab_size=value)),
    }
    return changed[axis]()


def measure(session: Session, point: Point) -> dict[str, Timings]:
    """Measure a point for the result, or note why it is left out; returns the timings by contender."""
    work = point.work
    try:
        found = session.timings_of(work, "step", CURVES, texts=False)
    except LeftOut:  # too large for this machine; the session has noted it
        return {}
    proofs = session.gate.of(work, CURVES, texts=False)
    for name in CURVES:
        if not proofs[name].passed:
            session.leave_out(f"{work.name}: no parity pass, no number: {name}: {proofs[name].why}")
    timings = {name: of["training_step"] for name, of in found.items()}
    session.scaling += [
        {
            "axis": point.axis,
            "value": point.value,
            "batch": work.batch,
            "time": work.time,
            "config": asdict(work.config),
            "contender": name,
            **one.speed(work.tokens),
            "memory": one.memory.bytes,
            "parity": proofs[name].over,
        }
        for name, one in timings.items()
    ]
    return timings
