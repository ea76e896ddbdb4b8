"""Initial weights that are not GPT-2's are a remark: no output shows them once other weights are loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.candidate.examine import examine
from bench.candidate.layouts import canonical
from bench.candidate.report import verdict
from reference import GPT, GPTConfig

CONFIG = GPTConfig(block_size=24, vocab_size=61, n_layer=2, n_head=2, n_embd=48)


def initialised(change: Callable[[GPT], object]) -> Callable[[GPTConfig], GPT]:
    """A build function of the readable GPT with other initial weights."""

    def build(config: GPTConfig) -> GPT:
        model = GPT(config)
        with torch.no_grad():
            change(model)
        return model

    return build


def unscaled(model: GPT) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            parameter.normal_(std=0.02)


def uniform(model: GPT) -> None:
    for parameter in model.parameters():
        parameter.uniform_(-0.1, 0.1)


CASES: dict[str, tuple[Callable[[GPT], object], str | None]] = {
    "GPT-2's": (lambda model: None, None),
    "positions of OpenAI's code": (lambda model: model.wpe.weight.normal_(std=0.01), None),
    "residual projections of 0.02": (unscaled, "initial residual projections: standard deviation 0.02"),
    "biases of 1": (lambda model: model.h[0].mlp.c_fc.bias.fill_(1.0), "initial biases: standard deviation"),
    "gains of 0": (lambda model: model.ln_f.weight.zero_(), "initial norm gains: standard deviation"),
    "not meant to be GPT-2's": (uniform, None),
}


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_that_are_not_those_of_gpt2_are_a_remark(name: str) -> None:
    change, remark = CASES[name]
    seen = examine(initialised(change), canonical, config=CONFIG, batch=2, time=8, steps=0)
    assert seen.same
    found = [line for line in seen.remarks if line.startswith("initial ")]
    assert [line.startswith(remark) for line in found] == [True] if remark else found == []
    assert not found or "; GPT-2's: " in found[0]


def test_where_they_are_asked_for_other_initial_weights_are_a_difference_and_not_else() -> None:
    seen = examine(initialised(unscaled), canonical, config=CONFIG, batch=2, time=8, steps=0)
    assert seen.same_start
    assert verdict(seen).startswith("The same function: ")
    seen.judges_start = True
    assert not seen.same_start
    assert verdict(seen).startswith(
        "The same function, but other initial residual projections: standard deviation 0.02"
    )
    right = examine(GPT, canonical, config=CONFIG, batch=2, time=8, steps=0)
    right.judges_start = True
    assert right.same_start
