"""`python -m bench compare`: a plan with one row, run by the suite's session; prints and writes its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import torch

from bench.contenders import ALL, chosen, import_what_is_needed
from bench.contenders.gate import proof_key
from bench.contenders.verify import ORACLE, denormals_flushed
from bench.environment import environment, threads
from bench.formatting import terminal
from bench.journal import Journal
from bench.settings import Compare
from bench.suite.cases import add_case
from bench.suite.plan import Plan, Row, left_out_of_optimized, of_able
from bench.suite.result_file import make_folder, save
from bench.suite.session import LeftOut, Session
from bench.suite.tables import print_to
from bench.timing.interleave import Progress, TimeBudget
from bench.workloads.scenarios import SCENARIOS
from bench.workloads.workload import PRECISIONS, workload
from reference.cli.progress import Stages
from reference.training.devices import choose_device

# task: its share of --seconds, and its least rounds: fewer give no useful interval
SHARES = {"forward": (0.25, 5), "training_step": (0.5, 5), "generation": (0.25, 3)}
MOST_ROUNDS = 200  # more hardly narrow the interval
TITLES = {"forward": "forward passes", "training_step": "training steps", "generation": "generation"}


def compare(options: Compare) -> int:
    """Run a comparison, print it and write its result file.

    Returns 0 if every contender passed its proof or is known to be another function, else 1. Raises ValueError, one
    line, for a user's mistake.
    """
    options.check()
    plan = plan_for(options)
    (row,) = plan.rows
    (scenario,) = row.scenarios
    device = device_for(options)
    for name in dict.fromkeys([ORACLE, *row.contenders]):
        import_what_is_needed(name, plan.precision)
    with threads(options.threads), denormals_flushed():
        here = environment(device)
        path = options.json or Path("runs", "compare", f"{datetime.now():%Y%m%d-%H%M%S}.json")
        arguments = {**asdict(options), "contenders": list(row.contenders), "json": str(path)}
        stages = Stages(0)
        session = Session(
            device, plan, arguments, here, Staged(stages), Journal(path, "compare", "", here, arguments, kept=False)
        )
        session.left_out += left_out_of_optimized(plan, device)
        try:
            session.check_memory(row.work, scenario, min(2, len(row.contenders)), row.work)
        except LeftOut as reason:
            advice = "give a smaller --size, --batch or --time, fewer --contenders, or --steps 0"
            raise ValueError(f"{reason}: {advice}") from None
        make_folder(path)
        lines = session.gate.lines(row.work, row.contenders, generates(scenario))
        stages.stages = lines + 1 + len(SCENARIOS[scenario])  # 1: the launch
        with stages:
            measure(session)
    result = session.result()
    print_to(terminal(), result)
    save(result, path)
    print(f"\neverything that was measured: {path}")
    return 0 if all(found["passed"] or found["unlike"] for found in result["parity"]) else 1


def plan_for(options: Compare) -> Plan:
    """The plan of a comparison. Raises ValueError, one line, for a value that does not exist."""
    names = chosen(options.contenders)
    work = workload(options.size, options.batch, options.time)
    config = dataclasses.replace(work.config, bias=options.bias)
    work = dataclasses.replace(work, config=config, new=options.new_tokens)
    if options.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {options.precision!r}: give one of {', '.join(PRECISIONS)}")
    scenario = "compare" if options.new_tokens else "compare_no_text"
    plan = Plan(
        (Row(work.name, (scenario,), tuple(names), own=work),),
        components=(),
        ladder=None,
        scaling=False,
        seconds=options.seconds,
        rounds=(options.rounds or 0, options.rounds or MOST_ROUNDS),  # 0: by the task
        ceilings=False,
        precision=options.precision,
        proof_steps=options.steps,
        seed=options.seed,
    )
    return of_able(plan) if ALL in options.contenders else plan


def device_for(options: Compare) -> torch.device:
    """The device of --device. Raises ValueError if it does not exist or lacks the precision."""
    if options.device.startswith("mps") and options.precision == "float64":
        raise ValueError("--precision float64 on mps: that device has no float64; give --device cpu, or float32")
    return choose_device(options.device, options.precision)


def generates(scenario: str) -> bool:
    """Whether texts are generated, and so proven."""
    return "generation" in SCENARIOS[scenario]


def measure(session: Session) -> None:
    """Prove the contenders of the only row, and time those that passed."""
    (row,) = session.plan.rows
    (scenario,) = row.scenarios
    texts = generates(scenario)
    proven = session.proven(row.work, row.contenders, texts)
    for name in row.contenders:
        found = session.gate.found[proof_key(row.work, name)]
        if not found.passed:
            session.leave_out(f"{name}: {found.why if found.unlike else f'failed: {found.why}'}")
    if not proven:
        return
    given, most = session.plan.rounds
    time_budgets = {}
    for task in SCENARIOS[scenario]:
        share, least = SHARES[task]
        time_budgets[task] = TimeBudget(session.plan.seconds * share / len(proven), given or least, most)
    timings = session.timings_of(row.work, scenario, row.contenders, texts=texts, time_budgets=time_budgets)
    for task in SCENARIOS[scenario]:
        for name in proven:
            add_case(session, row.work, scenario, task, name, timings[name][task])


class Staged(Progress):
    """Show each line of a proof, the launch and each task as one stage, also if contenders are timed in groups."""

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages.stage)
        self.stages = stages
        self.begun: set[str] = set()

    def at(self, where: str) -> Progress:
        return self

    def launch(self, number: int, launches: int, names: Sequence[str]) -> None:
        self.once("launch", f"building {', '.join(names)}")

    def task(self, task: str, names: Iterable[str]) -> None:
        self.once(task, f"timing {TITLES[task]} of {', '.join(names)}")

    def once(self, key: str, what: str) -> None:
        """Begin a stage; show it within the current one if it was begun before."""
        (self.stages.within if key in self.begun else self.tell)(what)
        self.begun.add(key)

    def rounds(self, task: str, names: Iterable[str], rounds: int) -> None:
        self.stages.within(f"timing {TITLES[task]} of {', '.join(names)}: {rounds} rounds")

    def round(self, task: str, number: int) -> None:
        self.stages.within(f"timing {TITLES[task]}, round {number}")
