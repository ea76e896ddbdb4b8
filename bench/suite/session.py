"""A run of the suite on one device: everything is measured when first asked for, once, and kept for the result."""

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
from bench.contenders.gate import ParityGate, place, precision_of
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

LAUNCHES = 3  # of the A/A test: how processes of one program differ is to be seen too
COMMAND = "nox -s bench --"
ByContender = dict[str, dict[str, Timings]]


class LeftOut(Exception):
    """Something that cannot be measured here; one line says why, and the rest goes on."""


class Session:
    """One device, one plan.

    Args:
        device: to measure
        plan: what a complete run does
        arguments: of the command, for the result
        tell: told what is being done
        quick: whether the roofline may be measured quickly too
        json: where the result goes, if that is said
        journal: of a run that was stopped, to go on with
        command: that goes on with this run if it is stopped, without --resume FILE

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
        self.written = ""  # where the result went, for people

    @property
    def time_budget(self) -> TimeBudget:
        """How long to measure a task."""
        return TimeBudget(self.plan.seconds, *self.plan.rounds)

    @cached_property
    def roofline(self) -> Roofline:
        """The ceilings of the device, with all shapes of the plan that fit measured."""
        return Roofline(self.device, seconds=0.02 if self.quick else 0.1, keep=self.keep)

    @cached_property
    def floors(self) -> list[dict[str, Any]]:
        """What each task of the plan takes at least."""
        free = available_bytes(self.device)
        names = [row.workload for row in self.plan.rows if proof_misfit(row.workload, free) is None]
        scenarios = {
            name: SCENARIOS[name] for name in SCENARIOS if any(name in row.scenarios for row in self.plan.rows)
        }
        self.left_out += [f"floors in {precision}: this device emulates it" for precision in emulated(self.device)]
        return list(floors(self.roofline, names, scenarios, self.tell))

    def floor(self, workload: str, scenario: str, task: str, precision: str) -> dict[str, Any] | None:
        """One of them."""
        wanted = {"workload": workload, "scenario": scenario, "task": task, "precision": precision}
        return next((floor for floor in self.floors if wanted.items() <= floor.items()), None)

    def leave_out(self, line: str) -> LeftOut:
        """Note that something is left out; returns what to raise."""
        if line not in self.left_out:
            self.left_out.append(line)
        return LeftOut(line)

    def proven(self, workload: str, names: Sequence[str], proof: Workload | None = None) -> list[str]:
        """The contenders that have a parity pass at a workload, or at another one, `proof`.

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
        """The proven of some contenders in turn, by contender and task. Raises LeftOut if it does not fit."""
        key = (workload, scenario, tuple(names), anchors, launches)
        if key not in self.timings:
            try:
                self.timings[key] = self.run_scenario(workload, scenario, names, anchors, proof, launches)
            except Exception as error:
                self.timings[key] = error  # nor will it work the next time
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
            assert self.floors is not None  # the device is measured before anything that runs on it
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
        """A contender twice, in turn, launched several times; kept for the result.

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
        first, again = (found[who][task] for who in (name, f"{name} (again)"))
        whole = again.times_as_fast(first)
        self.aa_test = {
            "contender": name,
            "workload": workload,
            "task": task,
            "ratio": asdict(whole),
            "launches": [asdict(ratio(a, b)) for a, b in zip(first.by_launch(), again.by_launch(), strict=True)],
        }
        return whole

    def point(self, point: Point) -> None:
        """Measure one point of the curves, or note why not."""
        work, place = point.work, f"{point.axis} {point.value}"
        free = available_bytes(self.device)
        line = too_large(f"scaling/{place}", scenario_bytes(work, "step"), 2, free)
        if line is not None:
            self.leave_out(line)
            return
        found = self.gate.of(work, CURVES, texts=False)
        proven = [name for name in CURVES if found[name].passed]
        for name in CURVES:
            if name not in proven:
                self.leave_out(f"scaling/{place}: no parity pass, no number: {name}: {found[name].why}")
        if work not in self.points:
            self.give_back()
            tell = self.telling(f"scaling/{place}")
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
        """Raise LeftOut if components of a workload's shape do not fit."""
        line = misfit(workload, "training", 1, available_bytes(self.device))
        if line is not None:
            raise self.leave_out(line)

    def give_back(self) -> None:
        """Leave the memory that proofs took to the processes that come now."""
        gc.collect()
        give_back_freed()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def telling(self, where: str) -> Tell:
        """`tell`, with a place in front."""
        return lambda what: self.tell(f"{where}: {what}")

    def case(self, workload: str, scenario: str, task: str, name: str, timings: Timings) -> dict[str, Any]:
        """One number with all that belongs to it, as `bench.suite.result_file` describes it; kept for the result."""
        work = named(workload)
        precision = precision_of(name, work, self.device)
        prompt, new = text_shape(work)
        tokens, middle = tokens_of(work, scenario, task), median(timings.seconds)
        rate = tokens / middle
        flops = flops_per_token(work, task)
        ceilings = self.roofline.record()["ceilings"][precision]
        floor = self.floor(workload, scenario, task, precision)
        passed = self.gate.found[place(work, name)]
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
        """Everything that was measured, as `bench.suite.result_file` describes it."""
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
