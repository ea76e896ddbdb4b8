"""The device's best rates and the least time of each task of a plan: measured once, when first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from bench.journal import Keep
from bench.roofline.roofline import Roofline, emulated, floors, utilisation
from bench.suite.plan import Plan
from bench.timing.interleave import Tell
from bench.workloads.memory import available_bytes
from bench.workloads.scenarios import SCENARIOS, proof_misfit


class Ceilings:
    """The roofline of one device; its shapes are those of the plan's workloads that fit into memory.

    Args:
        quick: whether to measure it quickly
        left_out: gets a line for each precision without a floor
    """

    def __init__(
        self, device: torch.device, plan: Plan, quick: bool, tell: Tell, keep: Keep, left_out: list[str]
    ) -> None:
        self.plan, self.tell, self.left_out = plan, tell, left_out
        self.roofline = Roofline(device, seconds=0.02 if quick else 0.1, keep=keep)

    @cached_property
    def floors(self) -> list[dict[str, Any]]:
        """The least time of each task of the plan."""
        device = self.roofline.device
        free = available_bytes(device)
        names = [row.workload for row in self.plan.rows if proof_misfit(row.work, free) is None]
        scenarios = {
            name: SCENARIOS[name] for name in SCENARIOS if any(name in row.scenarios for row in self.plan.rows)
        }
        self.left_out += [f"floors in {precision}: this device emulates it" for precision in emulated(device)]
        return list(floors(self.roofline, names, scenarios, self.tell))

    def floor(self, workload: str, scenario: str, task: str, precision: str, seconds: float) -> dict[str, Any] | None:
        """The least time of a task, and its share of `seconds`; None if it is not measured."""
        wanted = {"workload": workload, "scenario": scenario, "task": task, "precision": precision}
        found = next((floor for floor in self.floors if wanted.items() <= floor.items()), None)
        return found and {"seconds": found["seconds"], "share": found["seconds"] / seconds}

    def mfu(self, precision: str, flops_per_second: float) -> dict[str, float | None]:
        """The share of each ceiling: of the measured one and of the data sheet's."""
        ceilings = self.roofline.record()["ceilings"][precision]
        return {of: utilisation(flops_per_second, ceiling) for of, ceiling in ceilings.items()}

    def record(self) -> dict[str, Any] | None:
        """Plain values for the result; None if nothing was measured."""
        return {**self.roofline.record(), "floors": self.floors} if "floors" in self.__dict__ else None
