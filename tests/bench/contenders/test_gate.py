"""No parity pass, no number: proofs before timing."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contenders import CONTENDERS, own_precision
from bench.contenders.gate import GateResult, ParityGate, short_of_best
from bench.workloads.scenarios import named
from bench.workloads.workload import Workload
from reference import GPT, GPTConfig, generate

CPU = torch.device("cpu")
WORK = Workload("some", GPTConfig(block_size=24, vocab_size=50, n_layer=2, n_head=2, n_embd=16), batch=2, time=16)


def gate() -> ParityGate:
    return ParityGate(CPU, lambda what: None)


def test_a_right_contender_passes_with_its_error_over_the_budget() -> None:
    found = gate().of(WORK, ["reference", "bf16"])
    assert found["reference"].passed
    assert 0.0 < found["reference"].over["float32"] < 1.0
    assert found["reference"].logits is not None
    assert found["reference"].logits < 5e-6
    assert set(found["bf16"].over) == {"float32", "bfloat16"}
    assert found["bf16"].logits is not None
    assert 1e-4 < found["bf16"].logits < 2e-2, "in the precision it computes in"
    assert own_precision("float32", "bf16", WORK.config, CPU) == "bfloat16"


@pytest.mark.parametrize(
    "precision,steps,checks", [("float64", 0, ["float64"]), ("bfloat16", 1, ["float32", "bfloat16"])]
)
def test_a_gate_of_another_precision_proves_in_it_and_keeps_each_check(
    precision: str, steps: int, checks: list[str]
) -> None:
    told: list[str] = []
    own = ParityGate(CPU, told.append, precision=precision, steps=steps)
    lines = own.lines(WORK, ["reference"])
    found = own.of(WORK, ["reference"])["reference"]
    assert found.passed, found.why
    assert len(told) == lines
    written = [line for line in told if "text of" in line]
    assert written == [f"proving at some: text of reference in {precision}"], "only in its own precision"
    assert [(check["precision"], check["steps"]) for check in found.checks] == [(one, steps) for one in checks]
    for check in found.checks:
        quantities = {"logits", "loss", "gradient"} | ({"trajectory"} if steps else set())
        assert quantities <= check["worst"].keys()
        assert (check["failures"], check["over"]) == ([], found.over[check["precision"]])
    assert found.logits == found.checks[-1]["worst"]["logits"]["error"]


def test_another_function_fails_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Louder(GPT):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) * 1.001

    def build(config: GPTConfig, weights: Any, device: Any, dtype: Any) -> GPT:
        model = Louder(config).to(device, dtype)
        model.load_state_dict(weights)
        return model

    monkeypatch.setitem(CONTENDERS, "louder", replace(CONTENDERS["reference"], build=build))
    found = gate().of(WORK, ["reference", "louder"])
    assert found["reference"].passed
    assert not found["louder"].passed
    assert "times its budget" in found["louder"].why
    (check,) = found["louder"].checks
    worst = check["failures"][0]
    assert worst["error"] > worst["allowed"] > 0.0
    assert worst["error"] / worst["allowed"] == check["over"]
    assert {failure["quantity"] for failure in check["failures"]} >= {"logits", "gradient"}


def test_a_wrong_text_fails_although_every_logit_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: Any, ids: Tensor, new: int) -> Tensor:
        return torch.cat([ids, generate(model, ids[:, 1:], new, temperature=0.0)[:, -new:]], dim=1)

    monkeypatch.setitem(CONTENDERS, "forgetful", replace(CONTENDERS["reference"], generate=forgetful))
    found = gate().of(WORK, ["forgetful"])["forgetful"]
    assert not found.passed
    assert found.why.startswith("text: a token in float32 is ")
    assert gate().of(WORK, ["forgetful"], texts=False)["forgetful"].passed, "nothing else is wrong with it"


def test_a_missing_package_is_reported_and_the_others_are_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "peer", replace(CONTENDERS["reference"], module="no_such_package.gpt2"))
    found = gate().of(WORK, ["peer", "reference"])
    assert found["reference"].passed
    assert "needs the package 'no_such_package', which is not installed" in found["peer"].why


def test_everything_is_proven_once_and_each_shape_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some code branches on the shape, so a proof at one shape proves nothing at another."""
    own = gate()
    first = own.of(WORK, ["reference"])
    asked: list[tuple[int, int]] = []

    def prove(self: ParityGate, work: Workload, names: list[str], texts: bool) -> dict[str, dict[str, Any]]:
        asked.append((work.batch, work.time))
        return {name: asdict(GateResult(True, {}, 0.0, (work.batch, work.time), "")) for name in names}

    monkeypatch.setattr(ParityGate, "prove", prove)
    assert own.of(WORK, ["reference"]) == first
    assert own.of(WORK.of_shape(1, 8), ["reference"])["reference"].shape == (1, 8)
    assert asked == [(1, 8)]


def test_the_gap_of_a_token_to_the_best_logit() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.tensor([0.0, 3.0, 2.5]).expand(*ids.shape, 3)

    assert short_of_best(Fixed(), torch.tensor([[0, 1, 1]]), start=1) == 0.0
    assert short_of_best(Fixed(), torch.tensor([[0, 1, 2]]), start=1) == 0.5
    assert short_of_best(Fixed(), torch.tensor([[0, 0, 1], [0, 1, 1]]), start=1) == 3.0
    assert short_of_best(Fixed(), torch.tensor([[0, 0, 1]]), start=2) == 0.0, "the prompt is not judged"


def test_the_smallest_workload_is_proven_in_seconds() -> None:
    assert named("smoke").proof_steps() == 20
