"""A run of the suite on one device: each measurement is made once, on demand, and kept for the result."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.contenders import find
from bench.contenders.gate import ParityGate, precision_of, proof_key
from bench.environment import clocks_after_work, environment
from bench.journal import Journal, check_same, partial_path
from bench.roofline.roofline import Roofline, emulated, floors, utilisation
from bench.suite.plan import Plan
from bench.suite.result_file import KIND, VERSION, elsewhere
from bench.suite.scaling import CURVES, Point, described
from bench.timing.interleave import TimeBudget, Timings, run_scenario
from bench.timing.ratios import Ratio, ratio
from bench.workloads.memory import available_bytes, give_back_freed
from bench.workloads.scenarios import (
    SCENARIOS,
    flops_per_token,
    misfit,
    named,
    proof_misfit,
    rows_of,
    scenario_bytes,
    text_shape,
    tokens_of,
    too_large,
)
from bench.workloads.workload import Workload

Tell = Callable[[str], None]

LAUNCHES = 3  # of the A/A test, to include differences between launches
COMMAND = "nox -s bench --"
ByContender = dict[str, dict[str, Timings]]


class LeftOut(Exception):
    """A measurement is impossible here; its message is one line. The others continue."""


class Session:
    """One device, one plan.

    Args:
        device: to measure
        plan: the measurements of a complete run
        arguments: of the command, for the result
        tell: called with a line for each step
        quick: whether to measure the roofline quickly too
        json: path of the result, if given
        journal: of a stopped run to continue
        command: the command that continues this run, without --resume FILE

    Raises ValueError, one line, for a journal of another machine or other software.
    """

    def __init__(
        self,
        device: torch.device,
        plan: Plan,
        arguments: dict[str, Any],
        tell: Tell,
        quick: bool,
        json: Path | None = None,
        journal: Journal | None = None,
        command: str = COMMAND,
    ) -> None:
        self.device, self.plan, self.arguments, self.tell, self.quick = device, plan, arguments, tell, quick
        self.environment = environment(device)
        if journal is None:
            now = datetime.now().isoformat(timespec="seconds")
            path = partial_path(json or elsewhere(self.environment, now))
            begun_with = {**arguments, "device": str(device)}
            journal = Journal(path, KIND, command, self.environment, begun_with, tell)
        else:
            check_same(journal, self.environment)
        self.journal, self.keep = journal, journal.once
        self.gate = ParityGate(device, tell, keep=self.keep)
        self.timings: dict[tuple[object, ...], ByContender | Exception] = {}
        self.cases: list[dict[str, Any]] = []
        self.components: list[dict[str, Any]] = []
        self.ablation: list[dict[str, Any]] = []
        self.scaling: list[dict[str, Any]] = []
        self.points: dict[Workload, dict[str, Timings]] = {}
        self.aa_test: dict[str, Any] | None = None
        self.left_out: list[str] = list(plan.left_out)
        self.written = ""  # a line with the result's path

    @property
    def time_budget(self) -> TimeBudget:
        """How long to measure a task."""
        return TimeBudget(self.plan.seconds, *self.plan.rounds)

    @cached_property
    def roofline(self) -> Roofline:
        """The device's ceilings; the plan's shapes are measured where they fit."""
        return Roofline(self.device, seconds=0.02 if self.quick else 0.1, keep=self.keep)

    @cached_property
    def floors(self) -> list[dict[str, Any]]:
        """The least time of each task of the plan."""
        free = available_bytes(self.device)
        names = [row.workload for row in self.plan.rows if proof_misfit(row.workload, free) is None]
        scenarios = {
            name: SCENARIOS[name] for name in SCENARIOS if any(name in row.scenarios for row in self.plan.rows)
        }
        self.left_out += [f"floors in {precision}: this device emulates it" for precision in emulated(self.device)]
        return list(floors(self.roofline, names, scenarios, self.tell))

    def floor(self, workload: str, scenario: str, task: str, precision: str) -> dict[str, Any] | None:
        """One of the floors; None if there is none."""
        wanted = {"workload": workload, "scenario": scenario, "task": task, "precision": precision}
        return next((floor for floor in self.floors if wanted.items() <= floor.items()), None)

    def leave_out(self, line: str) -> LeftOut:
        """Note a line in `left_out`; returns the error to raise."""
        if line not in self.left_out:
            self.left_out.append(line)
        return LeftOut(line)

    def proven(self, workload: str, names: Sequence[str], proof: Workload | None = None) -> list[str]:
        """The contenders with a parity pass at a workload, or at `proof` if given.

        Raises LeftOut if the proof does not fit into memory.
        """
        line = proof_misfit(workload, available_bytes(self.device))
        if line is not None:
            raise self.leave_out(line)
        found = self.gate.of(proof or named(workload), names)
        return [name for name in names if found[name].passed]

    def timings_of(
        self,
        workload: str,
        scenario: str,
        names: Sequence[str],
        anchors: int = 1,
        proof: Workload | None = None,
        launches: int = 1,
    ) -> ByContender:
        """Time the proven contenders in turn; returns by contender and task. Raises LeftOut if memory is short."""
        key = (workload, scenario, tuple(names), anchors, launches)
        if key not in self.timings:
            try:
                self.timings[key] = self.run_scenario(workload, scenario, names, anchors, proof, launches)
            except Exception as error:
                self.timings[key] = error  # so that it is not tried again
        found = self.timings[key]
        if isinstance(found, Exception):
            raise found
        return found

    def run_scenario(
        self, workload: str, scenario: str, names: Sequence[str], anchors: int, proof: Workload | None, launches: int
    ) -> ByContender:
        self.proven(workload, [])
        free = available_bytes(self.device)
        line = misfit(workload, scenario, min(anchors + 1, len(names)), free)
        if line is not None:
            raise self.leave_out(line)
        if workload in {row.workload for row in self.plan.rows}:
            assert self.floors is not None  # measure the device first
        proven = self.proven(workload, names, proof)
        if not proven:
            return {}
        work = named(workload)
        self.give_back()
        tell = self.telling(f"{workload}/{scenario}")
        found = run_scenario(
            work, scenario, proven, self.device, self.time_budget, tell, free, anchors, launches, self.keep
        )
        self.environment["clocks"] = clocks_after_work(self.environment["clocks"], self.device)
        return found

    def run_aa_test(self, workload: str, scenario: str, task: str, name: str, time_budget: TimeBudget) -> Ratio:
        """Time a contender against a second copy of it, in several launches; kept for the result.

        Args:
            time_budget: of one launch
        """
        if not self.proven(workload, [name]):
            raise self.leave_out(f"{workload}/{task}: {name} has no parity pass")
        tell = self.telling(f"A/A test of {name}")
        self.give_back()
        launches = LAUNCHES
        time_budget = TimeBudget(
            launches * time_budget.seconds, launches * time_budget.least, launches * time_budget.most
        )
        names = [name, name]
        found = run_scenario(
            named(workload), scenario, names, self.device, time_budget, tell, launches=launches, keep=self.keep
        )
        first, again = (found[label][task] for label in (name, f"{name} (again)"))
        overall = again.times_as_fast(first)
        self.aa_test = {
            "contender": name,
            "workload": workload,
            "task": task,
            "ratio": asdict(overall),
            "launches": [asdict(ratio(a, b)) for a, b in zip(first.by_launch(), again.by_launch(), strict=True)],
        }
        return overall

    def point(self, point: Point) -> None:
        """Measure one point of the scaling curves, or note why it is left out."""
        work, where = point.work, f"{point.axis} {point.value}"
        free = available_bytes(self.device)
        line = too_large(f"scaling/{where}", scenario_bytes(work, "step"), 2, free)
        if line is not None:
            self.leave_out(line)
            return
        found = self.gate.of(work, CURVES, texts=False)
        proven = [name for name in CURVES if found[name].passed]
        for name in CURVES:
            if name not in proven:
                self.leave_out(f"scaling/{where}: no parity pass, no number: {name}: {found[name].why}")
        if work not in self.points:
            self.give_back()
            tell = self.telling(f"scaling/{where}")
            found_here = run_scenario(work, "step", proven, self.device, self.time_budget, tell, free, keep=self.keep)
            self.points[work] = {name: timings["training_step"] for name, timings in found_here.items()}
        for name, timings in self.points[work].items():
            self.scaling.append(
                {
                    **described(point),
                    "contender": name,
                    **timings.speed(work.tokens),
                    "memory": timings.memory.bytes,
                    "parity": found[name].over,
                }
            )

    def check_component(self, workload: str) -> None:
        """Raise LeftOut if components of a workload's shape do not fit into memory."""
        line = misfit(workload, "training", 1, available_bytes(self.device))
        if line is not None:
            raise self.leave_out(line)

    def give_back(self) -> None:
        """Free the memory of the proofs for the next processes."""
        gc.collect()
        give_back_freed()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def telling(self, where: str) -> Tell:
        """`tell` with a prefix."""
        return lambda what: self.tell(f"{where}: {what}")

    def case(self, workload: str, scenario: str, task: str, name: str, timings: Timings) -> dict[str, Any]:
        """One entry of `cases` in bench/suite/result_file.py; kept for the result."""
        work = named(workload)
        precision = precision_of(name, work, self.device)
        prompt, new = text_shape(work)
        tokens, middle = tokens_of(work, scenario, task), median(timings.seconds)
        rate = tokens / middle
        flops = flops_per_token(work, task)
        ceilings = self.roofline.record()["ceilings"][precision]
        floor = self.floor(workload, scenario, task, precision)
        passed = self.gate.found[proof_key(work, name)]
        assert passed.passed, "no parity pass, no number"
        shape = {"prompt": prompt, "new": new} if scenario in ("text", "texts") else {"time": work.time}
        case = {
            "name": f"{workload}/{scenario}/{task}/{name}",
            "workload": workload,
            "size": work.size,
            "scenario": scenario,
            "task": task,
            "contender": name,
            "description": find(name).description,
            "precision": precision,
            "batch": rows_of(work, scenario, task),
            **shape,
            "tokens": tokens,
            **timings.speed(tokens),
            "first": timings.first,
            "compile": asdict(timings.compiled),
            "flops_per_token": flops,
            "flops_per_second": flops * rate,
            "mfu": {of: utilisation(flops * rate, ceiling) for of, ceiling in ceilings.items()},
            "floor": floor and {"seconds": floor["seconds"], "share": floor["seconds"] / middle},
            "memory": timings.memory.record(),
            "parity": {"over": passed.over, "logits": passed.logits, "shape": list(passed.shape)},
        }
        self.cases.append(case)
        return case

    def result(self) -> dict[str, Any]:
        """The result; see bench/suite/result_file.py."""
        return {
            "kind": KIND,
            "version": VERSION,
            "started": self.journal.started.isoformat(timespec="seconds"),
            "seconds": self.journal.seconds,
            "resumed": self.journal.resumed,
            "arguments": {**self.arguments, "device": str(self.device)},
            "environment": self.environment,
            "roofline": {**self.roofline.record(), "floors": self.floors} if "floors" in self.__dict__ else None,
            "parity": [
                {"size": size, "contender": name, **asdict(found)}
                for (size, _, _, name), found in self.gate.found.items()
            ],
            "cases": self.cases,
            "components": self.components,
            "ablation": self.ablation,
            "scaling": self.scaling,
            "aa_test": self.aa_test,
            "left_out": self.left_out,
        }
