"""The proof before timing agrees with the parity harness and rejects wrong contenders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.contenders import CONTENDERS, USUAL, Autocast, Contender, able, build_in, chosen, find, import_what_is_needed
from bench.contenders.huggingface_model import HuggingFaceGPT, bfloat16_copy, greedy
from bench.contenders.verify import (
    LEARNING_RATE,
    ORACLE,
    Check,
    Verdict,
    checks_of,
    denormals_flushed,
    prove,
    weights_of,
)
from bench.numerics.budgets import BF16_CAPS, BF16_ULP, BUDGETS, rounding_allowance
from bench.numerics.errors import Measurement, Report
from bench.numerics.inputs import random_batch, sharp_state_dict, typical_state_dict
from bench.numerics.outputs import ModelOutputs, collect_outputs
from bench.workloads.workload import workload
from reference import GPT, GPTConfig, build_step
from tests.bench.wrong import ERF, NAN, NO_DECAY

CONFIG = GPTConfig(block_size=32, vocab_size=61, n_layer=3, n_head=2, n_embd=32)
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def verdicts(precision: str, *names: str, config: GPTConfig = CONFIG, steps: int = 3) -> dict[str, list[Verdict]]:
    """Run every check of a precision on contenders; returns verdicts by name."""
    work = replace(workload("tiny", 2, 24), config=config)
    found: dict[str, list[Verdict]] = {name: [] for name in names}
    for check, weights in weights_of(checks_of(work, precision, steps), config, 0):
        for name, verdict in prove(check, config, weights, names, CPU, 0, lambda what: None):
            found[name].append(verdict)
    return found


COMPILED = ("huggingface-compiled", "huggingface-best", "compile", "full", "full-float32", "optimized")


def same(config: GPTConfig, precision: str) -> list[str]:
    """The installed contenders that must be the same function."""
    return [name for name in able(list(CONTENDERS), precision)[0] if not CONTENDERS[name].unlike(config)]


@pytest.mark.parametrize(
    "precision, config",
    [
        ("float64", CONFIG),
        pytest.param("float64", replace(CONFIG, bias=False), marks=pytest.mark.slow),
        ("float32", CONFIG),
        pytest.param("bfloat16", CONFIG, marks=pytest.mark.slow),
        pytest.param("float32", replace(CONFIG, bias=False), marks=pytest.mark.slow),
        pytest.param("bfloat16", replace(CONFIG, bias=False), marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "bias" if value.bias else "no bias",
)
def test_every_contender_of_the_table_passes(precision: str, config: GPTConfig) -> None:
    check_all_pass(precision, [name for name in same(config, precision) if name not in COMPILED], config)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_compiled_contenders_pass(precision: str) -> None:
    """In float32 full-float32 is full, and in bfloat16 too. Two layers: every layer of transformers' is compiled."""
    check_all_pass(precision, ["huggingface-best", "full", "optimized"], replace(CONFIG, n_layer=2))


def check_all_pass(precision: str, names: list[str], config: GPTConfig) -> None:
    for name, found in verdicts(precision, *names, config=config).items():
        for verdict in found:
            assert not verdict.failures(), f"{name}: {verdict.failures()[0]}, {verdict.worst_over():.2f} of the budget"
            assert verdict.report.top1 > 0.95
        assert len(found) == (2 if precision == "bfloat16" else 1)


def test_the_oracles_own_error_is_exactly_0_in_float64() -> None:
    (verdict,) = verdicts("float64", ORACLE)[ORACLE]
    assert {m.error for m in verdict.report.measurements} == {0.0}
    assert verdict.worst_over() == 0.0


def observed(model: GPT, batch: tuple[Tensor, Tensor], small: tuple[Tensor, Tensor]) -> ModelOutputs:
    return collect_outputs(model, build_step, batch, small, 1, learning_rate=LEARNING_RATE)


def test_logits_and_loss_are_proven_on_the_timed_batch_and_gradients_on_the_small_one() -> None:
    weights = sharp_state_dict(CONFIG, dtype=torch.float32)
    large, small = random_batch(CONFIG, 3, 20), random_batch(CONFIG, 1, 9)

    def model() -> GPT:
        model = GPT(CONFIG)
        model.load_state_dict(weights)
        return model

    found, whole, check = (observed(model(), *batches) for batches in ((large, small), (large, large), (small, small)))
    assert found.logits.shape == (3, 20, CONFIG.vocab_size)
    assert torch.equal(found.logits, whole.logits)
    torch.testing.assert_close(found.loss, whole.loss)
    assert all(torch.equal(found.gradients[name], check.gradients[name]) for name in weights)
    assert torch.equal(found.losses[0], check.losses[0])


@pytest.mark.parametrize("name", ["reference", "huggingface-eager", "huggingface-bf16", "fused_adamw"])
def test_taking_the_steps_first_changes_no_output(name: str) -> None:
    weights = sharp_state_dict(CONFIG, dtype=torch.float32)
    batch, build = random_batch(CONFIG, 3, 20), find(name).build_step
    for precision in ("float32", "bfloat16") if name == "huggingface-bf16" else ("float64", "float32"):
        found = []
        for first in (None, weights):
            model = build_in(precision, name, CONFIG, weights, CPU)
            settings = {"learning_rate": 1e-3, "weights": weights, "first_weights": first}
            found.append(collect_outputs(model, build, batch, batch, 2, **settings))
        before, after = found
        assert torch.equal(before.logits, after.logits)
        assert torch.equal(before.loss, after.loss)
        assert all(torch.equal(before.gradients[n], after.gradients[n]) for n in weights)
        assert before.losses == after.losses
        assert all(torch.equal(before.update[n], after.update[n]) for n in weights)
        assert any(bool(moved.any()) for moved in after.update.values())


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("wrong", [ERF, NAN], ids=lambda wrong: wrong.description)
def test_a_wrong_model_fails_in_every_precision(
    wrong: Contender, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "wrong", wrong)
    first, *others = verdicts(precision, "wrong")["wrong"]
    assert first.failures(), f"{wrong.description} went unnoticed in {precision}"
    assert first.check.question == "function"
    if wrong is ERF and others:
        # bfloat16 cannot show it, so it needs two checks
        assert not others[0].failures(), "the rounding check alone finds the erf GELU: one check would do"


def test_a_forgotten_weight_decay_fails_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "wrong", NO_DECAY)
    (verdict,) = verdicts("float64", "wrong")["wrong"]
    assert {m.quantity for m in verdict.failures()} == {"trajectory", "update"}
    (verdict,) = verdicts("float64", "wrong", steps=0)["wrong"]
    assert not verdict.failures(), "only the steps can show it"


def test_a_bfloat16_budget_is_a_multiple_of_plain_codes_error() -> None:
    plain = Report([Measurement("logits", "logits", 1e-3, 0.0), Measurement("gradient", "a", 2e-3, 0.0)])
    plain.measurements.append(Measurement("gradient", "b", 4e-2, 0.0))
    allowed = rounding_allowance(plain)
    assert allowed(Measurement("logits", "logits", 0.0, 0.0)) == 2 * 1e-3 + BF16_ULP
    assert allowed(Measurement("gradient", "a", 0.0, 0.0)) == 3 * 2e-3 + BF16_ULP, "each tensor has its own"
    assert allowed(Measurement("gradient", "b", 0.0, 0.0)) == BF16_CAPS["gradient"], "never more than the cap"
    assert allowed(Measurement("trajectory", "step 0", 0.0, 0.0)) == 1e-2
    assert allowed(Measurement("update", "a", 0.0, 0.0)) is None


def test_plain_code_beyond_a_cap_fails_too() -> None:
    bad = Report([Measurement("logits", "logits", 3e-2, 0.0)])
    check = Check("rounding", "bfloat16", "typical", (1, 1), (1, 1), 0)
    (failure,) = Verdict(check, bad, rounding_allowance(bad)).failures()
    assert failure.quantity == "logits"


def test_a_measurement_without_a_budget_neither_fails_nor_counts() -> None:
    check = Check("function", "float32", "sharp", (1, 1), (1, 1), 1)
    report = Report([Measurement("update", "a", 0.5, 0.5), Measurement("loss", "loss", 1e-6, 0.0)])
    verdict = Verdict(check, report, BUDGETS["float32"])
    assert not verdict.failures()
    assert verdict.worst_over() == pytest.approx(0.2)


# keras-hub leaves the product of the head in float32
ALL_BFLOAT16 = set(same(CONFIG, "bfloat16")) - {"keras-hub"}


@pytest.mark.parametrize(
    "names",
    [ALL_BFLOAT16 - set(COMPILED), pytest.param(("compile", "full"), marks=pytest.mark.slow)],
    ids=["not compiled", "compiled"],
)
def test_bfloat16_contenders_compute_in_bfloat16_and_keep_their_weights_in_float32(names: Collection[str]) -> None:
    weights = sharp_state_dict(CONFIG, dtype=torch.float32)
    for name in sorted(names):
        model = build_in("bfloat16", name, CONFIG, weights, CPU)
        ids, targets = random_batch(CONFIG, 2, 8)
        assert model(ids).dtype == torch.bfloat16, name
        assert {p.dtype for p in model.parameters()} == {torch.float32}, name
        assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items()), name
        assert isinstance(model, Autocast) == (CONTENDERS[name].build_bfloat16 is None), name
        assert model.loss(ids, targets).dtype == torch.float32, name


def test_autocast_sees_the_weights_that_the_optimizer_has_just_changed() -> None:
    model = build_in("bfloat16", "reference", CONFIG, None, CPU)
    ids, targets = random_batch(CONFIG, 2, 8)
    step = build_step(model, learning_rate=0.1)
    before = [float(step(ids, targets)) for _ in range(3)]
    assert len(set(before)) == 3, f"the losses {before} do not change: stale copies of the weights are used"


def test_the_default_contenders_are_compared_unless_others_are_named() -> None:
    assert chosen([]) == list(USUAL)
    assert chosen(["all"]) == list(CONTENDERS)
    assert chosen(["huggingface-sdpa", "reference"]) == ["huggingface-sdpa", "reference"]


def test_a_contender_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "peer", replace(CONTENDERS["reference"], module="no_such_package.gpt2"))
    with pytest.raises(
        ValueError,
        match=r"^'peer' needs the package 'no_such_package', which is not installed: pip install no_such_package$",
    ):
        import_what_is_needed("peer")


@pytest.mark.slow
def test_a_bfloat16_copy_of_hugging_face_generates_with_its_own_weights() -> None:
    """A copied compiled forward would use the original's weights."""
    model = build_in("bfloat16", "huggingface-best", CONFIG, None, CPU).eval()
    ids = random_batch(CONFIG, 1, 4)[0]
    copy = bfloat16_copy(model)
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    tokens = greedy(model, ids, 5)
    with torch.no_grad():
        model.model.model.transformer.wte.weight.data.zero_()  # `.data` does not change the version: the copy stays
    assert bfloat16_copy(model) is copy
    assert torch.equal(greedy(model, ids, 5), tokens)
    assert copy(ids).dtype == torch.bfloat16


def test_denormals_are_flushed_in_a_proof_and_not_after_it() -> None:
    small = torch.tensor([1e-39])
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot flush denormals")
    with denormals_flushed():
        assert float(small * 0.5) == 0.0
    assert float(small * 0.5) > 0.0
    with pytest.raises(KeyError), denormals_flushed():
        raise KeyError
    assert float(small * 0.5) > 0.0


def test_the_second_checks_weights_are_made_from_the_firsts_and_equal_freshly_drawn_ones() -> None:
    checks = checks_of(workload("tiny", 2, 24), "float32", rounding=True)
    assert [check.weights for check in checks] == ["sharp", "typical"]
    for given in (checks, checks[::-1], [*checks, checks[1]]):
        for check, weights in weights_of(given, CONFIG, 5):
            alone = (
                sharp_state_dict(CONFIG, 5, torch.float32)
                if check.weights == "sharp"
                else typical_state_dict(CONFIG, 5)
            )
            torch.testing.assert_close(weights, alone, rtol=0, atol=0)


def test_hugging_faces_model_is_the_same_if_its_weights_were_not_drawn_before_loading() -> None:
    weights = sharp_state_dict(CONFIG, 0, torch.float32)
    drawn, not_drawn = (HuggingFaceGPT(CONFIG, "sdpa", draw) for draw in (True, False))
    for model in (drawn, not_drawn):
        model.load_state_dict(weights)
    torch.testing.assert_close(not_drawn.state_dict(), drawn.state_dict(), rtol=0, atol=0)
    assert not_drawn.model.lm_head.weight is not_drawn.model.transformer.wte.weight
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    torch.testing.assert_close(not_drawn(ids), drawn(ids), rtol=0, atol=0)
