"""`python -m bench compare --candidate FILE.py:build`: test a GPT against the reference and print the report."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import replace
from typing import Any

import torch

from bench.candidate.against import compare_with
from bench.candidate.examine import SMOKE, Examination, examine, usual_time
from bench.candidate.guess_layout import check_settled, choose_layout, doubts, with_advice, with_help
from bench.candidate.load_function import load_function
from bench.candidate.report import show, text
from bench.environment import threads
from bench.formatting import terminal
from bench.journal import write
from bench.settings import CompareCandidate
from bench.workloads.memory import available_bytes, needed_bytes
from bench.workloads.workload import Workload
from reference.cli.progress import Stages
from reference.config import SIZES, GPTConfig
from reference.training.devices import choose_device

STAGES = 6


@with_help()
def compare_candidate(options: CompareCandidate) -> int:
    """Examine a candidate and print the report.

    Returns 0 for the same function, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    config = replace(config_of(options.size), bias=options.bias)
    time = usual_time(config) if options.time is None else options.time
    if not 1 <= time <= config.block_size:
        raise ValueError(f"--time {time}: {options.size} takes 1 to {config.block_size} tokens (its block size)")
    work = Workload(options.size, config, options.batch, time)
    steps = work.proof_steps() if options.steps is None else options.steps
    check_room(work, steps)
    precision = None if options.precision == "auto" else options.precision
    device = choose_device(options.device, precision or "float32")
    build = load_function(options.candidate, "build", "candidate")
    guess = choose_layout(options.layout, build, config)
    if options.against is not None:
        shape = {"config": config, "batch": options.batch, "time": time, "steps": steps, "seed": options.seed}
        return compare_with(options, build, guess, {**shape, "device": device, "precision": precision})
    with Stages(STAGES) as progress, threads(options.threads), with_advice(options.layout, build, config):
        seen = examine(
            build,
            guess.layout,
            name=options.candidate,
            layout_name=guess.name,
            config=config,
            batch=options.batch,
            time=time,
            steps=steps,
            device=device,
            precision="float32" if device.type == "mps" else precision,
            seed=options.seed,
            tell=progress.stage,
        )
    seen.notes[:0] = guess.notes
    if not seen.same and not seen.causes:
        seen.notes += doubts(guess, options.layout, build, config)
    report(seen)
    if options.json is not None:
        write(options.json, result(seen))
    if not seen.same:
        check_settled(guess, bool(seen.causes))
    return 0 if seen.same else 1


def config_of(size: str) -> GPTConfig:
    """The config of a size. Raises ValueError for an unknown size."""
    if size == "smoke":
        return SMOKE
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: give one of smoke, {', '.join(SIZES)}")
    return replace(SIZES[size], dropout=0.0)


def check_room(work: Workload, steps: int) -> None:
    """Raise a ValueError if the comparison needs more than the free memory."""
    block = work.of_shape(2, work.config.block_size)  # its logits are compared too
    needed = max(needed_bytes(work, "float64", 2, steps), needed_bytes(block, "float64", 2, 0))
    available = available_bytes(torch.device("cpu"))
    if available is not None and needed > available:
        raise ValueError(
            f"comparing at size {work.size}, batch {work.batch}, time {work.time} needs about {needed / 1e9:.1f} GB of "
            f"memory, {available / 1e9:.1f} GB are free: give a smaller --size, --batch or --time, or --steps 0"
        )


def report(seen: Examination) -> None:
    """Print the report: in colour on a terminal, plain elsewhere."""
    if not sys.stdout.isatty():
        print(text(seen, terminal().width))
    else:
        show(seen, terminal())


def result(seen: Examination) -> dict[str, Any]:
    """The examination as plain values, for --json."""
    return {
        "kind": "candidate",
        "candidate": seen.name,
        "layout": seen.layout,
        "same": seen.same,
        "precision": seen.precision,
        "config": dataclasses.asdict(seen.config),
        "measurements": [{**dataclasses.asdict(m), "allowed": seen.allowed(m)} for m in seen.report.measurements],
        "where": None if seen.where is None else dataclasses.asdict(seen.where),
        "causes": [dataclasses.asdict(cause) for cause in seen.causes],
        "unseen": seen.unseen,
        "notes": seen.notes,
    }
