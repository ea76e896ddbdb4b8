"""A run on one device: each measurement is made once, on demand, and kept for the result."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from bench.contenders.gate import ParityGate
from bench.environment import clocks_after_work
from bench.journal import Journal
from bench.suite.ceilings import Ceilings
from bench.suite.plan import Plan
from bench.suite.result_file import VERSION
from bench.timing.interleave import Progress, TimeBudget, Timings, run_scenario
from bench.workloads.memory import available_bytes, give_back_freed
from bench.workloads.scenarios import SCENARIOS, misfit, proof_misfit
from bench.workloads.workload import Workload

ByContender = dict[str, dict[str, Timings]]


class LeftOut(Exception):
    """A measurement is impossible here; its message is one line. The others continue."""


class Session:
    """One device, one plan.

    Args:
        device: to measure
        plan: the measurements of a complete run
        arguments: of the command, for the result
        environment: see bench/environment.py
        progress: reports each step
        journal: of this run, or of a stopped run to continue
        quick: whether to measure the roofline quickly too
    """

    def __init__(
        self,
        device: torch.device,
        plan: Plan,
        arguments: dict[str, Any],
        environment: dict[str, Any],
        progress: Progress,
        journal: Journal,
        quick: bool = False,
    ) -> None:
        self.device, self.plan, self.arguments, self.quick = device, plan, arguments, quick
        self.environment, self.progress, self.tell = environment, progress, progress.tell
        self.journal, self.keep = journal, journal.once
        self.left_out: list[str] = list(plan.left_out)
        self.gate = ParityGate(device, self.tell, plan.seed, self.keep, plan.precision, plan.proof_steps)
        self.ceilings = Ceilings(device, plan, quick, self.tell, self.keep, self.left_out) if plan.ceilings else None
        self.misfits: dict[tuple[object, ...], str | None] = {}
        self.timings: dict[tuple[object, ...], ByContender | Exception] = {}
        self.cases: list[dict[str, Any]] = []
        self.components: list[dict[str, Any]] = []
        self.ablation: list[dict[str, Any]] = []
        self.scaling: list[dict[str, Any]] = []
        self.aa_test: dict[str, Any] | None = None
        self.written = ""  # a line with the result's path

    def leave_out(self, line: str) -> LeftOut:
        """Note a line in `left_out`; returns the error to raise."""
        if line not in self.left_out:
            self.left_out.append(line)
        return LeftOut(line)

    def check_memory(self, work: Workload, scenario: str, together: int = 1, proof: Workload | None = None) -> None:
        """Raise LeftOut unless processes side by side, and the proof if given, fit into memory.

        Asked once each, before anything starts: later, this process holds what its proofs have left.
        """
        key = (work, scenario, together, proof)
        if key not in self.misfits:
            free, precision = available_bytes(self.device), self.plan.precision
            line = None if proof is None else proof_misfit(proof, free, precision, self.plan.proof_steps)
            self.misfits[key] = line or misfit(work, scenario, together, free, precision)
        if (line := self.misfits[key]) is not None:
            raise self.leave_out(line)

    def proven(self, work: Workload, names: Sequence[str], texts: bool = True) -> list[str]:
        """The contenders with a parity pass at a workload."""
        found = self.gate.of(work, names, texts)
        return [name for name in names if found[name].passed]

    def timings_of(
        self,
        work: Workload,
        scenario: str,
        names: Sequence[str],
        anchors: int = 1,
        proof: Workload | None = None,
        launches: int = 1,
        texts: bool = True,
        time_budgets: Mapping[str, TimeBudget] | None = None,
    ) -> ByContender:
        """Time the proven contenders in turn; returns by contender and task. Raises LeftOut if memory is short.

        Args:
            anchors, launches: see `run_scenario`
            proof: the workload of the proof; None: this one
            texts: whether to prove generation too
            time_budgets: by task; None: the plan's
        """
        key = (work, scenario, tuple(names), anchors, launches)
        if key not in self.timings:
            try:
                self.check_memory(work, scenario, min(anchors + 1, len(names)), proof or work)
                if self.ceilings is not None and work in [row.work for row in self.plan.rows]:
                    assert self.ceilings.floors is not None  # measure the device first
                proven = self.proven(proof or work, names, texts)
                if time_budgets is None:
                    usual = TimeBudget(self.plan.seconds, *self.plan.rounds)
                    time_budgets = dict.fromkeys(SCENARIOS[scenario], usual)
                self.timings[key] = self.time(work, scenario, proven, anchors, launches, time_budgets)
            except Exception as error:
                self.timings[key] = error  # so that it is not tried again
        found = self.timings[key]
        if isinstance(found, Exception):
            raise found
        return found

    def time(
        self,
        work: Workload,
        scenario: str,
        proven: Sequence[str],
        anchors: int,
        launches: int,
        time_budgets: Mapping[str, TimeBudget],
    ) -> ByContender:
        """Time proven contenders, and read the clocks when the device has just worked."""
        if not proven:
            return {}
        self.give_back()
        progress, free = self.progress.at(f"{work.name}/{scenario}"), available_bytes(self.device)
        how = (free, anchors, launches, self.plan.precision, self.keep)
        found = run_scenario(work, scenario, proven, self.device, time_budgets, progress, *how)
        self.environment["clocks"] = clocks_after_work(self.environment["clocks"], self.device)
        return found

    def give_back(self) -> None:
        """Free the memory of the proofs for the next processes."""
        gc.collect()
        give_back_freed()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def result(self) -> dict[str, Any]:
        """The result; see bench/suite/result_file.py."""
        return {
            "kind": self.journal.kind,
            "version": VERSION,
            "started": self.journal.started.isoformat(timespec="seconds"),
            "seconds": self.journal.seconds,
            "resumed": self.journal.resumed,
            "arguments": {**self.arguments, "device": str(self.device)},
            "environment": self.environment,
            "workloads": [{**row.record(), "precision": self.plan.precision} for row in self.plan.rows],
            "roofline": self.ceilings and self.ceilings.record(),
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
