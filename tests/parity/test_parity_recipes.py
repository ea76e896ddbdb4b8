"""Every recipe is the same function: each rung alone, each pair, FULL, FULL without each rung."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.numerics.budgets import BUDGETS, rounding_allowance
from bench.numerics.errors import Allowance, Report
from bench.numerics.inputs import random_batch
from bench.numerics.outputs import compare_outputs
from bench.parity import compare
from optimized import FULL, PLAIN, RUNGS, Recipe, build_step, only
from optimized.precision import tf32_products
from optimized.recipe import AROUND_SLOTS, MODEL_SLOTS
from reference import GPT
from reference.checkpoints.canonical import canonical_gradients
from tests.parity.observed import keep
from tests.parity.recipes import (
    CONFIG,
    DTYPES,
    answers_of,
    answers_of_hugging_face,
    answers_of_plain_bfloat16,
    answers_of_the_readable,
    fast,
    grid,
    model_combinations,
    plain,
    plain_bfloat16,
    weights,
)
from tests.parity.shapes import SHAPES
from tests.quick import quick


def marked(recipes: list[Recipe], compiled: Recipe | None = None) -> list[Any]:
    """The recipes as parameters; slow where a compiler has to run, but for one that stands for those in a quick run."""
    slow = [recipe for recipe in recipes if "compile" in recipe and recipe != compiled]
    return [pytest.param(r, id=named(r), marks=[pytest.mark.slow] if r in slow else []) for r in recipes]


def named(recipe: Recipe) -> str:
    """A recipe's name by its rungs, or by those missing from FULL if that is shorter."""
    missing = [name for name in FULL.rungs if name not in recipe]
    lacking = f"full-without-{'-'.join(missing)}"
    return lacking if missing and recipe == FULL.without(*missing) and len(missing) <= 2 else str(recipe)


def step_of(recipe: Recipe) -> Any:
    return partial(build_step, recipe=recipe)


@pytest.mark.parametrize("precision", quick(["float64", "float32"], "float64"))
@pytest.mark.parametrize("shape", SHAPES)
def test_plain_equals_the_reference_bit_for_bit(shape: str, precision: str) -> None:
    torch.set_num_threads(1)  # more threads change the last bits of gradients, on one side as on the other
    config, dtype = SHAPES[shape], DTYPES[precision]
    readable = GPT(config).to(dtype)
    readable.load_state_dict(weights(precision, config, 0))
    ours = fast(PLAIN, precision, config)
    ids, targets = random_batch(config, 3, 63)
    assert torch.equal(ours(ids), readable(ids))
    left, right = ours.loss(ids, targets), readable.loss(ids, targets)
    assert torch.equal(left, right)
    left.backward()
    right.backward()
    expected = canonical_gradients(readable)
    for name, gradient in canonical_gradients(ours).items():
        assert torch.equal(gradient, expected[name]), name

    from reference import build_step as readable_step

    a, b = build_step(ours, PLAIN, 1e-3), readable_step(readable, 1e-3)
    for number in range(3):
        assert torch.equal(a(ids, targets), b(ids, targets)), f"step {number}"
    assert all(torch.equal(t, readable.state_dict()[n]) for n, t in ours.state_dict().items())


@pytest.mark.parametrize("recipe", marked(grid("float64"), compiled=FULL.without("bf16")))
def test_in_float64(recipe: Recipe) -> None:
    check("float64", recipe)


# A pair means in float32 what it means in float64; what its rungs round alone is seen by default.
PAIRS = {only(*names) for names in combinations(RUNGS, 2)}


@pytest.mark.parametrize("recipe", quick(grid("float32"), PLAIN, FULL.without("bf16", "compile")), ids=named)
def test_in_float32(recipe: Recipe) -> None:
    check("float32", recipe)


def check(precision: str, recipe: Recipe) -> None:
    """Assert the budgets of a precision for a recipe, and keep its errors for the table.

    20 steps, in which errors of one rung add up. How two rungs work together shows in the first few.
    """
    shape, steps = (3, 33), 4 if recipe in PAIRS else 20
    report = compare_outputs(
        answers_of(recipe, precision, shape, steps), answers_of_the_readable(precision, shape, steps)
    )
    keep(recipe, precision, report, lambda m: BUDGETS[precision].of(m.quantity))
    assert_within(report, BUDGETS[precision])


def assert_within(report: Report, allowed: Allowance) -> None:
    failures = report.failures(allowed)
    worst = [f"{m.quantity} {m.name}: {m.error:.2e}, allowed {allowed(m) or 0.0:.2e}" for m in failures[:3]]
    assert not failures, f"{len(failures)} of {len(report.measurements)} measurements are beyond: {worst}"


@pytest.mark.parametrize("recipe", marked(model_combinations()))
def test_every_combination_inside_the_model_in_float64(recipe: Recipe) -> None:
    shape, steps = (2, 17), 2
    report = compare_outputs(
        answers_of(recipe, "float64", shape, steps), answers_of_the_readable("float64", shape, steps)
    )
    assert_within(report, BUDGETS["float64"])


@pytest.fixture(scope="module")
def plain_in_bfloat16() -> Report:
    """How far off plain code is in bfloat16."""
    return compare_outputs(answers_of_plain_bfloat16(), answers_of_the_readable("bfloat16"))


@pytest.mark.parametrize("recipe", quick(grid("bfloat16"), only("bf16"), FULL.without("compile")), ids=named)
def test_in_bfloat16_it_rounds_no_more_than_plain_code_does(recipe: Recipe, plain_in_bfloat16: Report) -> None:
    ours, oracle = answers_of(recipe, "bfloat16"), answers_of_the_readable("bfloat16")
    report = compare_outputs(ours, oracle)
    allowed = rounding_allowance(plain_in_bfloat16)
    keep(recipe, "bfloat16", report, allowed)
    assert_within(report, allowed)
    errors = (ours.logits.double() - oracle.logits).flatten()
    bias = float(errors.mean() / (errors.std() / errors.numel() ** 0.5))
    assert abs(bias) < 6, f"the errors of the logits have one sign: their mean is {bias:.1f} standard errors from zero"


@pytest.mark.parametrize(
    "recipe", marked([FULL.without("bf16"), FULL.without("bf16", "compile"), PLAIN], compiled=FULL.without("bf16"))
)
def test_against_hugging_face(recipe: Recipe) -> None:
    report = compare_outputs(answers_of(recipe, "float64"), answers_of_hugging_face("float64"))
    assert_within(report, BUDGETS["float64"])


@pytest.mark.parametrize("recipe", marked([FULL.without("bf16"), FULL.without("bf16", "compile"), PLAIN]))
def test_against_hugging_face_in_float32(recipe: Recipe) -> None:
    report = compare_outputs(answers_of(recipe, "float32"), answers_of_hugging_face("float32"))
    assert_within(report, BUDGETS["float32"])


@pytest.mark.parametrize("recipe", marked([FULL, FULL.without("compile")]))
def test_full_in_bfloat16_against_hugging_face(recipe: Recipe, plain_in_bfloat16: Report) -> None:
    report = compare_outputs(answers_of(recipe, "bfloat16"), answers_of_hugging_face("bfloat16"))
    assert_within(report, rounding_allowance(plain_in_bfloat16))


@pytest.mark.parametrize("recipe", marked([only("compile"), FULL.without("bf16")]))
def test_compiled_code_rounds_at_most_twice_as_much_as_eager_code(recipe: Recipe) -> None:
    check_compiled(recipe, "float32", factor=2.0, ulp=2.0**-23)


@pytest.mark.parametrize("recipe", marked([only("bf16", "compile"), FULL]))
def test_compiled_code_rounds_at_most_three_times_as_much_in_bfloat16(recipe: Recipe) -> None:
    check_compiled(recipe, "bfloat16", factor=3.0, ulp=2.0**-8)


def check_compiled(recipe: Recipe, precision: str, factor: float, ulp: float) -> None:
    """Hold compiled code against the same recipe as Python; an ulp more, where that happens to be exact.

    A loss of the trajectory is one number, near its target by chance: there the largest error of all steps counts.
    """
    ids, targets = random_batch(CONFIG, 3, 33)
    eager, compiled = (
        compare(fast(r, precision), plain(precision), ids, targets, build=step_of(r), learning_rate=1e-5)
        for r in (recipe.without("compile"), recipe)
    )
    before = {(m.quantity, m.name): m.error for m in eager.measurements}
    steps = [key for key in before if key[0] == "trajectory"]
    before |= dict.fromkeys(steps, max(before[key] for key in steps))
    for m in compiled.measurements:
        if m.quantity != "update":  # Adam moves what is only rounding as far as anything else
            assert m.error <= factor * before[m.quantity, m.name] + ulp, f"{m.quantity} {m.name}: {m.error:.2e}"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_every_recipe_on_cuda(precision: str) -> None:
    """One test, because what fails on one recipe is read from its message."""
    ids, targets = random_batch(CONFIG, 3, 33)
    for recipe in grid(precision, "cuda"):
        ours = fast(recipe, precision, device="cuda")
        report = compare(ours, plain(precision), ids, targets, build=step_of(recipe))
        keep(recipe, f"{precision} on cuda", report, lambda m: BUDGETS[precision].of(m.quantity))
        failures = report.failures(BUDGETS[precision])
        assert not failures, f"{recipe}: {failures[:3]}"


def every_recipe_on_cuda_rounds_within(
    precision: str, allowed: Allowance, oracle: GPT, ids: Tensor, targets: Tensor
) -> None:
    for recipe in grid(precision, "cuda"):
        ours = fast(recipe, precision, device="cuda")
        report = compare(ours, oracle, ids, targets, build=step_of(recipe), learning_rate=1e-5)
        keep(recipe, f"{precision} on cuda", report, allowed)
        beyond = [m for m in report.measurements if m.error > (allowed(m) or m.error)]
        assert not beyond, f"{recipe}: {beyond[:3]}"


@pytest.mark.gpu
def test_every_recipe_in_bfloat16_on_cuda() -> None:
    ids, targets = random_batch(CONFIG, 3, 33)
    oracle = plain("bfloat16")
    allowed = rounding_allowance(compare(plain_bfloat16(device="cuda"), oracle, ids, targets, learning_rate=1e-5))
    every_recipe_on_cuda_rounds_within("bfloat16", allowed, oracle, ids, targets)


@pytest.mark.gpu
def test_tf32_on_cuda_rounds_no_more_than_plain_code_does_with_it() -> None:
    """The rounding rule: twice the error of plain code (gradients: three times), and an ulp of its 10 bits."""
    ids, targets = random_batch(CONFIG, 3, 33)
    oracle, readable = plain("tf32"), GPT(CONFIG).cuda()
    readable.load_state_dict(weights("tf32", CONFIG, 0))
    with tf32_products():
        allowed = rounding_allowance(compare(readable, oracle, ids, targets, learning_rate=1e-5), ulp=2.0**-11)
    every_recipe_on_cuda_rounds_within("tf32", allowed, oracle, ids, targets)


def test_the_grid_has_every_rung_alone_and_every_pair() -> None:
    possible = [name for name, rung in RUNGS.items() if rung.clash("cpu", "float64") is None]
    recipes = grid("float64")
    assert {only(name) for name in possible} <= set(recipes)
    assert {only(a, b) for a in possible for b in possible} <= set(recipes)
    assert len(model_combinations()) == 2 ** sum(RUNGS[name].in_model for name in possible)
    assert all("bf16" in recipe for recipe in grid("bfloat16"))
    assert FULL in grid("bfloat16")


def test_every_seam_is_known_to_be_in_the_model_or_around_it() -> None:
    assert {rung.slot for rung in RUNGS.values()} == {*MODEL_SLOTS, *AROUND_SLOTS}
