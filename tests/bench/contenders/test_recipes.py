"""The recipes of the ladder."""

from __future__ import annotations

import pytest
import torch

from bench.contenders import ABLATED, find
from bench.workloads.scenarios import (
    named,
)
from optimized import FULL, RUNGS
from optimized.hardware import Hardware


def test_the_recipes_of_the_ladder_are_what_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import optimized

    built: list[optimized.Recipe] = []
    monkeypatch.setattr(optimized, "build", lambda config, recipe, *rest: built.append(recipe))

    config, cpu = named("mini").config, torch.device("cpu")

    def recipe(name: str) -> set[str]:
        contender = find(name)
        build = contender.build_bfloat16 if contender.uses_bfloat16(config, cpu) else contender.build
        assert build is not None
        build(config, None, cpu, torch.float32)
        return set(built.pop().rungs)

    for bfloat16 in (True, False):
        monkeypatch.setattr("optimized.recipe.hardware_of", lambda device, found=bfloat16: machine(found))
        best = set(optimized.best("cpu", "float32", config).rungs)
        assert ("bf16" in best) == bfloat16
        for rung in ABLATED:
            assert recipe(f"without-{rung}") == best - {rung}
            assert recipe(f"with-{rung}") == best | {rung}
            order = list(RUNGS)
            assert recipe(f"upto-{rung}") == {r for r in best if order.index(r) < order.index(rung)} | {rung}
            assert recipe(rung) == {rung}
        assert recipe("full") == set(FULL.rungs)
        assert recipe("optimized") == best
        assert best - recipe(f"upto-{ABLATED[-1]}") == {"ddp"}, "the last of the ladder is the best on one process"


def machine(bfloat16: bool) -> Hardware:
    return Hardware("cpu", bfloat16, compiler=True, keeps_memory=True)
