"""`python -m bench compare --candidate FILE.py:build`: test a GPT against the reference and print the report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from traceback import print_exception

import torch

from bench.candidate.against import compare_with
from bench.candidate.examine import TEST_SIZE, examine, usual_time
from bench.candidate.guess_layout import check_settled, choose_layout, doubts, with_advice, with_help
from bench.candidate.page import page
from bench.candidate.report import report, to_json
from bench.settings import CompareCandidate
from bench.user_code.command import finish, tested, user_code
from bench.user_code.load_function import load_function
from bench.workloads.memory import activation_bytes, available_bytes
from bench.workloads.workload import Workload
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
    with user_code(options.traceback):
        build = load_function(options.candidate, "build", "candidate")
        guess = choose_layout(options.layout, build, config)
    if options.against is not None:
        shape = {"config": config, "batch": options.batch, "time": time, "steps": steps, "seed": options.seed}
        return compare_with(options, build, guess, {**shape, "device": device, "precision": precision})
    with tested(options, STAGES) as tell, with_advice(options.layout, build, config):
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
            tell=tell,
        )
    for one in seen.unjudged if options.traceback else ():
        print_exception(one.error)
    seen.notes[:0] = guess.notes
    seen.judges_start = options.initial_weights
    if not seen.same and not seen.causes:
        with redirect_stdout(sys.stderr):
            seen.notes += doubts(guess, options.layout, build, config)
    status = finish(report(seen), options, to_json(seen), page(seen) if options.html is not None else None)
    if not seen.same:
        check_settled(guess, bool(seen.causes))
    return status


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
