"""`python -m bench compare --candidate FILE.py:build`: test a GPT against the reference and print the report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import print_exception
from typing import Any

import torch

from bench.candidate.against import compare_with
from bench.candidate.examination import Examination
from bench.candidate.examine import TEST_SIZE, examine, usual_time
from bench.candidate.guess_layout import check_settled, choose_layout, doubts, with_advice, with_help
from bench.candidate.load_function import load_function
from bench.candidate.report import show, verdict
from bench.environment import environment, threads
from bench.formatting import print_report
from bench.journal import write
from bench.settings import CompareCandidate
from bench.workloads.memory import activation_bytes, available_bytes
from bench.workloads.workload import Workload
from reference.cli.progress import Stages
from reference.config import SIZES, GPTConfig
from reference.training.devices import choose_device

STAGES = 8  # at most
BASE = 350_000_000  # bytes of a process with torch imported


@with_help()
def compare_candidate(options: CompareCandidate) -> int:
    """Examine a candidate and print the report.

    Returns 0 for the same function, 1 for a difference. Raises ValueError, one line, if it cannot be tested.
    """
    options.check()
    config = replace(shaped(config_of(options.size), options.shape), bias=options.bias)
    time = usual_time(config) if options.time is None else options.time
    if not 1 <= time <= config.block_size:
        raise ValueError(f"--time {time}: {options.size} takes 1 to {config.block_size} tokens (its block size)")
    work = Workload(options.size, config, options.batch, time)
    steps = work.proof_steps() if options.steps is None else options.steps
    check_room(work, steps)
    precision = None if options.precision == "auto" else options.precision
    device = choose_device(options.device, "float64" if precision == "float64" else "float32")
    # what the candidate prints is no part of the report
    with traceback_of(options.traceback), redirect_stdout(sys.stderr):
        build = load_function(options.candidate, "build", "candidate")
        guess = choose_layout(options.layout, build, config)
    if options.against is not None:
        shape = {"config": config, "batch": options.batch, "time": time, "steps": steps, "seed": options.seed}
        with traceback_of(options.traceback):
            return compare_with(options, build, guess, {**shape, "device": device, "precision": precision})
    with (
        traceback_of(options.traceback),
        redirect_stdout(sys.stderr),
        Stages(STAGES) as progress,
        threads(options.threads),
        with_advice(options.layout, build, config),
    ):
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
            precision="float32" if device.type == "mps" and precision is None else precision,
            seed=options.seed,
            depth=options.html is not None or options.json is not None,
            tell=progress.stage,
        )
    for one in seen.unjudged if options.traceback else ():
        print_exception(one.error)
    seen.notes[:0] = guess.notes
    seen.judges_start = options.initial_weights
    if not seen.same and not seen.causes:
        with redirect_stdout(sys.stderr):
            seen.notes += doubts(guess, options.layout, build, config)
    print_report(partial(show, seen))
    if options.json is not None:
        write(options.json, result(seen))
    if options.html is not None:
        save_page(seen, options.html)
    if not seen.same:
        check_settled(guess, bool(seen.causes))
    return 0 if seen.same and seen.same_start else 1


@contextmanager
def traceback_of(wanted: bool) -> Iterator[None]:
    """If wanted, print the traceback of a ValueError before it becomes one line."""
    try:
        yield
    except ValueError as error:
        if wanted:
            print_exception(error)
        raise


def config_of(size: str) -> GPTConfig:
    """The config of a size. Raises ValueError for an unknown size."""
    if size == "test":
        return TEST_SIZE
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: give one of test, {', '.join(SIZES)}")
    return replace(SIZES[size], dropout=0.0)


def shaped(config: GPTConfig, shape: str) -> GPTConfig:
    """A config with the numbers of --shape. Raises ValueError for an unknown name or an invalid number."""
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    numbers = {}
    for part in filter(None, shape.split(",")):
        name, _, number = part.partition("=")
        if name.strip() not in names or not number.strip().isdecimal():
            raise ValueError(f"--shape {part}: give NAME=NUMBER, NAME one of {', '.join(names)}")
        numbers[name.strip()] = int(number)
    try:
        return replace(config, **numbers)  # type: ignore[arg-type]  # all are whole numbers
    except ValueError as error:
        raise ValueError(f"--shape {shape}: {error}") from None


def check_room(work: Workload, steps: int) -> None:
    """Raise a ValueError if the comparison needs more than the free memory."""
    needed, available = peak_bytes(work, steps), available_bytes(torch.device("cpu"))
    if available is not None and needed > available:
        raise ValueError(
            f"comparing at size {work.size}, batch {work.batch}, time {work.time} needs about {needed / 1e9:.1f} GB of "
            f"memory, {available / 1e9:.1f} GB are free: give a smaller --size, --batch or --time, or --steps 0"
        )


def peak_bytes(work: Workload, steps: int) -> int:
    """Peak memory of a comparison, estimated.

    Measured in multiples of the float64 weights: 12 of weights, gradients and their copies in both layouts, 16 with
    AdamW's moments; 5 beside the activations of a training step, 9 beside the logits of the whole block.
    """
    weights, c = 8 * work.config.parameter_count(), work.config
    block = 8 * 3 * 2 * c.block_size * c.vocab_size
    at_once = (16 if steps else 12) * weights, 5 * weights + activation_bytes(work, 8), 9 * weights + block
    return BASE + max(at_once)


def save_page(seen: Examination, path: Path) -> None:
    """Write the page. Raises ValueError, one line, if that fails."""
    from bench.candidate.page import page, save  # Jinja2 takes a tenth of a second

    save(page(seen), path)


def result(seen: Examination) -> dict[str, Any]:
    """The examination as plain values, for --json."""
    return {
        "kind": "candidate",
        "candidate": seen.name,
        "layout": seen.layout,
        "same": seen.same and seen.same_start,
        "verdict": verdict(seen),
        "precision": seen.precision,
        "config": dataclasses.asdict(seen.config),
        "measurements": [{**dataclasses.asdict(m), "allowed": seen.allowed(m)} for m in seen.report.measurements],
        "where": None if seen.where is None else dataclasses.asdict(seen.where),
        "depth": [dataclasses.asdict(one) for one in seen.depth],
        "causes": [dataclasses.asdict(cause) for cause in seen.causes],
        "lowering": None if seen.lowering is None else seen.lowering.place,
        "only_rounds": seen.only_rounds,
        "initial_weights": seen.initial,
        "unjudged": {one.name: one.why for one in seen.unjudged},
        "unseen": seen.unseen,
        "notes": [*seen.notes, *seen.remarks],
        "environment": environment(torch.device(seen.device)),
    }
