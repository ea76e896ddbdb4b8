"""A batch shared by processes and micro-batches trains like the same batch at once.

Each number of processes is launched once; worker.py computes all that cases.py asks for, and the tests compare.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.numerics.budgets import BUDGETS
from bench.parity import distance, measure_all
from optimized import build_step
from optimized.distributed import Alone
from reference import GPT
from tests.distributed import cases
from tests.distributed.torchrun import torchrun

WORLDS = [1, pytest.param(2, marks=pytest.mark.multiproc), pytest.param(3, marks=pytest.mark.multiproc)]
SAME_GRADIENT, SAME_RUN = 1e-12, 1e-11


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a number of processes computed: by rank."""

    @functools.cache
    def of(world: int) -> Any:
        return launch(world, tmp_path_factory.mktemp("found")) if world > 1 else [{"gradients": cases.gradients(0, 1)}]

    tried: dict[int, bool] = {}

    def once(world: int) -> Any:
        assert tried.setdefault(world, True), f"{world} processes have failed already"
        tried[world] = False
        results = of(world)
        tried[world] = True
        return results

    return once


def launch(world: int, folder: Path) -> list[dict[str, Any]]:
    ended = torchrun("-m", "tests.distributed.worker", folder / "found", processes=world, cwd=folder, limit=400)
    assert ended.status == 0, ended.err
    return [torch.load(f"{folder}/found.{rank}", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def runs_of_one() -> dict[str, dict[str, Any]]:
    """Nothing is compiled again: compiled code of two processes is held against eager code of one."""
    found = cases.runs(0, 1, names=[name for name in cases.RUNS if "compiled" not in name])
    return {**found, "full compiled float64": found["full float64"]}


@pytest.fixture(scope="module")
def oracle() -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Loss and gradients of the readable model, the whole batch at once."""
    results = {}
    model = GPT(cases.CONFIG).double()
    model.load_state_dict(cases.sharp_state_dict(cases.CONFIG, 0))
    for kind in cases.KINDS:
        model.zero_grad()
        loss = model.loss(*cases.batch(kind))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results[kind] = loss.detach(), gradients
    return results


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("pieces", cases.MICRO_BATCHES)
@pytest.mark.parametrize("recipe", cases.RECIPES)
@pytest.mark.parametrize("world", WORLDS)
def test_any_split_of_a_batch_has_the_gradient_and_the_loss_of_the_whole(
    found: Any, oracle: Any, world: int, recipe: str, pieces: int, kind: str
) -> None:
    expected_loss, expected = oracle[kind]
    for rank, results in enumerate(found(world)):
        loss, gradients = results["gradients"][recipe, kind, pieces]
        assert distance(loss, expected_loss)[0] <= SAME_GRADIENT, f"rank {rank}: loss {loss}, not {expected_loss}"
        for measured in measure_all("gradient", gradients, expected):
            assert measured.error <= SAME_GRADIENT, f"rank {rank}: {measured.name} is off by {measured.error:.1e}"


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [2, 3])
def test_every_process_has_the_same_gradient_to_the_last_bit(found: Any, world: int) -> None:
    first, *others = (results["gradients"] for results in found(world))
    for case, (loss, gradients) in first.items():
        for other in others:
            assert torch.equal(other[case][0], loss), case
            for name, tensor in gradients.items():
                assert torch.equal(other[case][1][name], tensor), f"{case}: {name}"


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [2, 3])
def test_gradients_are_exchanged_once_a_step_however_many_micro_batches_there_are(found: Any, world: int) -> None:
    for results in found(world):
        counts = results["exchanges"]
        assert counts[1] >= 1
        assert set(counts.values()) == {counts[1]}, counts


@pytest.mark.multiproc
@pytest.mark.slow
@pytest.mark.parametrize("name", cases.RUNS)
def test_twenty_steps_of_two_processes_are_those_of_one(
    found: Any, runs_of_one: dict[str, dict[str, Any]], name: str
) -> None:
    one = runs_of_one[name]
    budget = BUDGETS[cases.RUNS[name][1]]
    allowed = min(budget.trajectory, SAME_RUN) if "float64" in name else budget.trajectory
    for results in found(2):
        two = results["runs"][name]
        assert int(two["step"]) == cases.STEPS
        for quantity in ("losses", "norms"):
            for number, (actual, expected) in enumerate(zip(two[quantity], one[quantity], strict=True)):
                error, _ = distance(actual, expected)
                assert error <= allowed, f"{quantity} of step {number} are off by {error:.1e}, allowed {allowed:.0e}"
        if budget.update is not None:
            for measured in measure_all("update", two["update"], one["update"]):
                # the key bias has a gradient of rounding noise alone, which AdamW divides by its own size
                bound = budget.update if measured.name.endswith("k_proj.bias") else SAME_RUN
                assert measured.error <= bound, f"{measured.name} moved elsewhere, by {measured.error:.1e}"
        assert min(float(norm) for norm in two["norms"]) > 0.5, "nothing was clipped"


@pytest.mark.multiproc
@pytest.mark.slow
def test_a_model_is_compiled_once_though_its_gradients_are_exchanged_in_parts(found: Any) -> None:
    for results in found(2):
        assert results["graphs"] == 1
        assert results["runs"]["full compiled float64"]["graphs"] == 1


def test_the_rung_changes_nothing_in_one_process() -> None:
    step = build_step(cases.model_of(cases.EXACT, "float64"), cases.EXACT)
    assert isinstance(step.exchange, Alone)
