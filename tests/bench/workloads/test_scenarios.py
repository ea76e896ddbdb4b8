"""A scenario's tokens, FLOPs and memory, and the line if it does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.workloads.flops import generated_flops_per_token, prefill_flops
from bench.workloads.scenarios import (
    INTERPRETER,
    SCENARIOS,
    flops_per_token,
    misfit,
    named,
    proof_misfit,
    rows_of,
    scenario_bytes,
    text_shape,
    tokens_of,
)
from bench.workloads.workload import workload


def test_tokens_and_flops_of_a_task_are_per_call() -> None:
    work = named("mini")
    assert tokens_of(work, "training", "training_step") == 4 * 128
    assert flops_per_token(work, "training_step") * 512 == work.step_flops()
    assert flops_per_token(work, "forward") * 512 == work.forward_flops()
    assert tokens_of(work, "text", "prefill") == 32
    assert tokens_of(work, "texts", "prefill") == 8 * 32
    assert tokens_of(work, "texts", "per_token") == rows_of(work, "texts", "per_token") == 8
    assert tokens_of(work, "ladder", "per_token") == 1
    assert tokens_of(work, "ladder", "training_step") == 4 * 128
    assert flops_per_token(work, "per_token") == generated_flops_per_token(work.config, 32, 32)


def test_a_generated_text_counts_its_new_tokens_and_the_flops_of_its_prompt_too() -> None:
    work = replace(named("mini"), new=5)
    assert text_shape(work, "compare") == (32, 5)
    assert (rows_of(work, "compare", "generation"), tokens_of(work, "compare", "generation")) == (1, 5)
    assert tokens_of(work, "compare", "training_step") == 4 * 128
    further = 4 * generated_flops_per_token(work.config, 32, 5)
    assert flops_per_token(work, "generation") * 5 == pytest.approx(prefill_flops(work.config, 32) + further)


def test_the_prompt_leaves_room_for_the_new_tokens() -> None:
    work = workload("tiny", 2, 16)
    assert [text_shape(replace(work, new=new), "compare")[0] for new in (4, 60, 500)] == [32, 4, 1]


def test_a_process_in_float64_needs_twice_the_memory_of_its_tensors() -> None:
    single, double = (scenario_bytes(named("gpt2"), "compare", precision) for precision in ("float32", "float64"))
    assert double - INTERPRETER == 2 * (single - INTERPRETER)
    assert proof_misfit(named("gpt2"), 8 * 10**9, steps=0) is None, "without the moments of the oracle"
    assert proof_misfit(named("gpt2"), 8 * 10**9, steps=2) is not None


def test_a_scenario_that_does_not_fit_is_one_line_with_both_numbers() -> None:
    each = scenario_bytes(named("gpt2-xl"), "training")
    assert each > 16 * 1_557_611_200
    assert misfit(named("gpt2-xl"), "training", 2, 2 * each) is None
    assert misfit(named("gpt2-xl"), "training", 2, None) is None
    line = misfit(named("gpt2-xl"), "training", 2, 2 * each - 1)
    assert line is not None
    assert line.startswith("gpt2-xl/training: needs about ")
    assert "for 2 processes side by side" in line
    assert line.endswith(" GB are free")
    assert "\n" not in line
    assert proof_misfit(named("gpt2-xl"), 10**10) is not None
    assert proof_misfit(named("smoke"), 10**10) is None


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_larger_workload_needs_more_memory(scenario: str) -> None:
    work = named("mini")
    assert scenario_bytes(replace(work, config=replace(work.config, n_embd=512)), scenario) > scenario_bytes(
        work, scenario
    )
    if scenario in ("forward", "training"):
        assert scenario_bytes(work.of_shape(8, 128), scenario) > scenario_bytes(work, scenario)


def test_the_ladder_generates_fewer_tokens() -> None:
    assert text_shape(named("mini-64")) == (32, 32)
    assert text_shape(named("mini-64"), "ladder") == (32, 12)


def test_the_logits_of_the_whole_batch_count_in_the_memory_of_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are proven on a smaller batch than logits."""
    work = named("gpt2-512")
    small = work.of_shape(*work.proof_shape())
    assert small.tokens < work.tokens
    logits = 8 * (work.tokens - small.tokens) * work.config.vocab_size
    monkeypatch.setattr("bench.workloads.scenarios.needed_bytes", lambda *_: 0)
    assert proof_misfit(work, logits) is not None
