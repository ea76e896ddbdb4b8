"""A step of several processes is judged against one with all micro-batches, and what the ranks exchange is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.training_step.audit import audit
from bench.training_step.hyperparameters import Hyperparameters
from bench.training_step.known_mistakes import possible
from bench.training_step.record import Recorded, initial
from bench.training_step.report import report
from bench.training_step.variant import Arithmetic, Clip, Exchange, Masks, Variant
from tests.bench.training_step.mutants import DDP, ON_RANKS

MASKS = Masks.of({name: parameter.shape for name, parameter in initial(0).named_parameters()})
COUNTS = [4, 2, 2, 4]  # of two ranks with two micro-batches each


def gradients(scale: float = 1e-3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(MASKS.tokens.shape, generator=generator, dtype=torch.float64) for _ in COUNTS]


def total(exchange: Exchange, given: list[torch.Tensor], clip: Clip = Clip.NONE) -> torch.Tensor:
    arithmetic = Arithmetic(Variant(exchange=exchange, clip=clip), Hyperparameters(), MASKS)
    return arithmetic.gradient(given, COUNTS, ranks=2)


def test_two_ranks_with_the_same_number_of_targets_have_the_gradient_of_one_with_all_micro_batches() -> None:
    g = gradients()
    one = Arithmetic(Variant(clip=Clip.NONE), Hyperparameters(), MASKS).gradient(g, COUNTS, ranks=1)
    assert torch.allclose(total(Exchange.MEAN, g), one, rtol=1e-12, atol=1e-18)
    assert torch.allclose(total(Exchange.SUM, g), 2 * one, rtol=1e-12, atol=1e-18)


def test_what_is_not_exchanged_is_the_first_ranks_own() -> None:
    a, b, c, d = gradients()
    own = (4 * a + 2 * b) / 6
    assert torch.allclose(total(Exchange.NOTHING, [a, b, c, d]), own, rtol=1e-12, atol=1e-18)
    first = (4 * a + 2 * c) / 6 / 2 + 2 * b / 6
    assert torch.allclose(total(Exchange.FIRST, [a, b, c, d]), first, rtol=1e-12, atol=1e-18)


def test_ranks_that_clip_alone_have_the_mean_of_clipped_gradients() -> None:
    a, b, c, d = gradients(scale=1.0)  # norms far above the limit of 1
    clipped = [g / (torch.linalg.vector_norm(g) + 1e-6) for g in ((4 * a + 2 * b) / 6, (2 * c + 4 * d) / 6)]
    found = total(Exchange.CLIPPED, [a, b, c, d], Clip.JOINT)
    assert torch.allclose(found, sum(clipped) / 2, rtol=1e-12, atol=1e-18)
    assert float(torch.linalg.vector_norm(found)) < 0.9  # not scaled up to the limit again


def test_one_process_makes_no_mistake_of_an_exchange() -> None:
    alone, together = ({one for one in possible(ranks) if "exchange" in one.fields} for ranks in (1, 2))
    assert not alone
    assert len(together) == 4


def test_ranks_that_have_other_weights_are_a_difference_though_the_first_ones_updates_are_right() -> None:
    from bench.training_step.audit import Audit, Run
    from bench.training_step.record import STEPS

    recorded = Recorded([], [], [1, 1], [], [], ranks=2, apart=[0.0, 0.5] + [1.0] * (STEPS - 2))
    run = Run("equal", recorded, [0.0] * STEPS, "wte.weight", [], torch.ones(1))
    assert not run.same
    found = Audit("mine", Hyperparameters(), [run], [], 2)
    said = " ".join(report(found).text().split())
    assert "Not the same training step: after step 1 the ranks have different weights." in said
    assert "after step 1 the ranks have different weights, by 5.0e-01 of the update" in said
    assert replace(recorded, apart=[0.0] * STEPS).apart == [0.0] * STEPS


@pytest.mark.multiproc
def test_the_right_step_of_two_processes_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--step", f"{DDP}:build_step", "--ranks", "2", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "; 2 ranks" in said
    assert "The same training step: 20 updates agree to 11." in said


@pytest.mark.multiproc
@pytest.mark.parametrize("name", ON_RANKS)
def test_what_ranks_exchange_wrongly_is_named_and_nothing_else(name: str, tmp_path: Path) -> None:
    file = tmp_path / "step.py"
    file.write_text(ON_RANKS[name].source())
    found = audit(lambda: None, name=f"{file}:build_step", unequal=False, ranks=2)
    assert not found.same
    named = [[mistake.what for mistake in one.mistakes] for one in found.runs[0].explanations]
    (cause,) = ON_RANKS[name].cause
    assert named
    assert all(len(one) == 1 and cause in one[0] for one in named), named
    diverges = name in ("flag_after_the_forward", "never_exchanged")
    assert (found.runs[0].first_apart is not None) == diverges


@pytest.mark.multiproc
@pytest.mark.parametrize(
    "old,new,line",
    [
        ("done += 1", "done += undefined", "step 0 raised NameError: name 'undefined' is not defined ("),
        ("    done = 0\n", "    import os\n    os._exit(7)\n    done = 0\n", "a process ended with status 7"),
    ],
)
def test_a_rank_that_fails_is_one_line_and_ends_the_others(old: str, new: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "step.py"
    file.write_text(DDP.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"^step: .* \(rank \d of 2\)$") as refused:
        audit(lambda: None, name=f"{file}:build_step", unequal=False, ranks=2)
    assert line in str(refused.value)
