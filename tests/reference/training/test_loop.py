"""The training loop: its order of events, and its independence of them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import GPT, GPTConfig, build_step
from reference.data.batches import Batches, windows
from reference.training.evaluation import Batch
from reference.training.loop import (
    NonFiniteError,
    Plan,
    Record,
    derived_seed,
    initial_weights,
    step_randomness,
    train,
)

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.3)
TOKENS = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(5))
PLAN = Plan(
    steps=12,
    seed=3,
    learning_rate=lambda step: 1e-2 / (step + 1),
    eval_interval=5,
    log_interval=2,
    checkpoint_interval=4,
)


def state(model: GPT) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@dataclass
class Run:
    """A run in memory: the loop's reports and its checkpoints."""

    plan: Plan = PLAN
    model: GPT = field(default_factory=lambda: fresh(3))
    records: list[Record] = field(default_factory=list)
    stepped_to: list[int] = field(default_factory=list)
    saved: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.step = build_step(self.model, self.plan.learning_rate)
        self.batches = Batches(TOKENS, 8, 4, seed=self.plan.seed)

    def save(self, done: int) -> None:
        optimizer = {name: tensor.clone() for name, tensor in self.step.optimizer.state_dict().items()}
        self.saved[done] = state(self.model), optimizer

    def stepped(self, done: int) -> None:
        self.stepped_to.append(done)

    def recorded(self, record: Record) -> None:
        self.records.append(record)

    def validation(self) -> Iterable[Batch]:
        return windows(TOKENS[:50], 8, 4)

    def go(self, **options: Any) -> int:
        return train(
            self.model,
            self.step,
            self.batches,
            self.validation,
            self.plan,
            save=self.save,
            observer=self,
            **options,
        )

    def resumed(self, done: int, **options: Any) -> "Run":
        """A new run from the checkpoint of this one after `done` steps."""
        other = Run(self.plan, fresh(99))
        other.model.load_state_dict(self.saved[done][0])
        other.step.optimizer.load_state_dict(self.saved[done][1])
        known = [r["step"] for r in self.records if "validation_loss" in r and r["step"] <= done]
        other.go(done=done, validated=known, **options)
        return other


def fresh(seed: int) -> GPT:
    model = GPT(CONFIG)
    model.load_state_dict(initial_weights(CONFIG, seed))
    return model


def assert_same_weights(a: Run, b: Run) -> None:
    for name, tensor in a.model.state_dict().items():
        other = b.model.state_dict()[name]
        assert torch.equal(tensor, other), f"{name} differs by up to {float((tensor - other).abs().max()):.1e}"
    moments = b.step.optimizer.state_dict()
    for name, tensor in a.step.optimizer.state_dict().items():
        assert torch.equal(tensor, moments[name]), f"optimizer: {name} differs"


@pytest.fixture(scope="module")
def whole() -> Run:
    """A run that was never interrupted."""
    run = Run()
    assert run.go() == 12
    return run


def test_it_trains(whole: Run) -> None:
    losses = [record["validation_loss"] for record in whole.records if "validation_loss" in record]
    assert losses[-1] < losses[0] - 0.05, losses


def test_it_logs_validates_and_saves_at_the_intervals_and_at_the_end(whole: Run) -> None:
    logged = [record["step"] for record in whole.records if "loss" in record]
    validated = [record["step"] for record in whole.records if "validation_loss" in record]
    assert logged == [2, 4, 5, 6, 8, 10, 12]  # 5: a validation ends a log interval, so its speed is that of training
    assert validated == [0, 5, 10, 12]
    assert list(whole.saved) == [0, 4, 8, 12]
    assert whole.stepped_to == list(range(1, 13))


def test_a_log_line_holds_the_mean_loss_and_the_learning_rate_of_its_steps() -> None:
    every_step, every_other = Run(replace(PLAN, log_interval=1)), Run(replace(PLAN, log_interval=4, eval_interval=12))
    every_step.go()
    every_other.go()
    single = {record["step"]: record for record in every_step.records if "loss" in record}
    for record in every_other.records:
        if "loss" in record:
            steps = range(record["step"] - 3, record["step"] + 1)
            mean = sum(single[s]["loss"] for s in steps) / 4
            assert record["loss"] == pytest.approx(mean, rel=1e-12), record
            assert record["learning_rate"] == 1e-2 / record["step"]
            assert record["gradient_norm"] == single[record["step"]]["gradient_norm"]
            assert record["tokens_per_second"] > 0


@pytest.mark.parametrize("done", [4, 8])
def test_a_run_that_goes_on_from_a_checkpoint_equals_the_whole_one_bit_for_bit(whole: Run, done: int) -> None:
    other = whole.resumed(done)
    assert_same_weights(whole, other)
    lines = [{**r, "tokens_per_second": 0} for r in whole.records if r["step"] > done]
    assert [{**r, "tokens_per_second": 0} for r in other.records] == lines


@pytest.mark.parametrize("stop_at", [1, 5, 7, 10, 11])  # 5 and 10 are validations
def test_a_run_stopped_anywhere_goes_on_bit_for_bit_with_every_validation_made_once(whole: Run, stop_at: int) -> None:
    first = Run()
    assert first.go(stopping=lambda: stop_at in first.stepped_to) == stop_at
    assert list(first.saved)[-1] == stop_at
    assert [r["step"] for r in first.records if "loss" in r][-1] == stop_at, "the last steps are missing in the log"
    second = first.resumed(stop_at)
    assert_same_weights(whole, second)
    made = [r for r in first.records + second.records if "validation_loss" in r]
    assert made == [r for r in whole.records if "validation_loss" in r]


def test_a_run_stopped_twice_goes_on_bit_for_bit(whole: Run) -> None:
    first = Run()
    first.go(stopping=lambda: 3 in first.stepped_to)
    asked = iter(range(1000))
    second = first.resumed(3, stopping=lambda: next(asked) > 5)
    middle = max(second.saved)
    assert 3 < middle < 12
    assert_same_weights(whole, second.resumed(middle))


def test_a_stop_in_the_middle_of_a_validation_leaves_it_for_the_resumed_run(whole: Run) -> None:
    first = Run()
    asked: list[bool] = []

    def stopping() -> bool:  # from the second batch of the validation after step 10 on
        asked.append(10 in first.stepped_to)
        return sum(asked) > 1

    assert first.go(stopping=stopping) == 10
    assert [r["step"] for r in first.records if "validation_loss" in r] == [0, 5]
    second = first.resumed(10)
    assert [r["step"] for r in second.records if "validation_loss" in r] == [10, 12]
    assert_same_weights(whole, second)


def test_validation_does_not_change_what_is_learned(whole: Run) -> None:
    often, never = Run(replace(PLAN, eval_interval=1)), Run(replace(PLAN, eval_interval=1000))
    often.go()
    never.go()
    assert_same_weights(whole, often)
    assert_same_weights(whole, never)


def test_randomness_used_by_others_changes_nothing_and_theirs_is_not_disturbed(whole: Run) -> None:
    run = Run()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run.go()
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers were disturbed"
    assert_same_weights(whole, run)

    noisy = Run()
    noisy.go(stopping=lambda: torch.rand(3).sum() < 0)  # draws from the global generator after every step
    assert_same_weights(whole, noisy)


def test_dropout_is_on_in_training_differs_between_steps_and_follows_the_seed() -> None:
    masks = []
    for seed, step in [(3, 0), (3, 1), (4, 0), (3, 0)]:
        with step_randomness(seed, step, torch.device("cpu")):
            masks.append(torch.nn.functional.dropout(torch.ones(64), 0.5))
    assert torch.equal(masks[0], masks[3])
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    run = Run()
    run.model.eval()
    modes: list[bool] = []
    run.stepped = lambda done: modes.append(run.model.training)  # type: ignore[method-assign]
    run.go()
    assert modes == [True] * 12


def test_another_seed_is_another_run(whole: Run) -> None:
    other = Run(replace(PLAN, seed=4))
    other.go()
    assert not torch.equal(other.model.wte.weight, whole.model.wte.weight)


def test_the_first_weights_are_a_function_of_the_seed_and_disturb_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = initial_weights(CONFIG, 7)
    torch.rand(5)
    b, c = initial_weights(CONFIG, 7), initial_weights(CONFIG, 8)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["wte.weight"], c["wte.weight"])
    torch.set_rng_state(before)
    initial_weights(CONFIG, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_two_steps_of_a_long_run_share_their_dropout_and_no_two_purposes_a_seed() -> None:
    seeds = {derived_seed("dropout", 1337, step) for step in range(200_000)}
    assert len(seeds) == 200_000
    assert max(seeds) < 2**32
    assert derived_seed("dropout", 2**32 - 1, 2**40) < 2**32
    assert len({derived_seed(purpose, 1) for purpose in ("weights", "dropout", "sample")}) == 3
    assert derived_seed("dropout", 1337, 0) != derived_seed("dropout", 1338, 0)


class Failing:
    """A training step whose loss or gradient norm goes wrong at one step."""

    def __init__(self, run: Run, at: int, loss: float | None, norm: float | None) -> None:
        self.run, self.at, self.loss, self.norm = run, at, loss, norm
        self.real, self.optimizer = run.step, run.step.optimizer
        self.gradient_norm = torch.tensor(0.0)

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        loss = self.real(ids, targets)
        self.gradient_norm = self.real.gradient_norm
        if self.optimizer.steps == self.at:
            self.gradient_norm = self.gradient_norm if self.norm is None else torch.tensor(self.norm)
            return loss if self.loss is None else torch.tensor(self.loss)
        return loss


@pytest.mark.parametrize("at", [1, 7, 8, 12])
@pytest.mark.parametrize(
    "loss, norm, says",
    [
        (math.nan, None, "step {at}: the loss is nan"),
        (math.inf, None, "step {at}: the loss is inf"),
        (None, math.inf, "step {at}: the gradient's norm is inf"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_before_anything_is_saved(
    at: int, loss: float | None, norm: float | None, says: str
) -> None:
    run = Run()
    run.step = Failing(run, at, loss, norm)  # type: ignore[assignment]
    with pytest.raises(NonFiniteError, match=says.format(at=at)):
        run.go()
    assert max(run.saved) < at
    assert all(math.isfinite(value) for record in run.records for value in record.values())


READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")


def test_the_device_is_waited_for_only_where_a_line_is_logged_a_validation_made_or_a_checkpoint_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(replace(PLAN, log_interval=4, eval_interval=6, checkpoint_interval=10))
    looked_after: set[int] = set()  # numbers of steps

    def noted(usual: Callable[..., Any]) -> Callable[..., Any]:
        def look(*args: Any, **kwargs: Any) -> Any:
            looked_after.add(len(run.stepped_to))
            return usual(*args, **kwargs)

        return look

    for name in READS:
        monkeypatch.setattr(Tensor, name, noted(getattr(Tensor, name)))
    run.go()
    assert looked_after == {0, 4, 6, 8, 10, 12}
    assert list(run.saved) == [0, 10, 12]


def poison(run: Run) -> Callable[[int], None]:
    def stepped(done: int) -> None:
        if done == 7:
            with torch.no_grad():
                run.model.get_parameter("h.0.ln_1.weight")[0] = math.inf

    return stepped


def test_weights_that_overflowed_are_never_saved() -> None:
    run = Run(replace(PLAN, checkpoint_interval=7))
    run.stepped = poison(run)  # type: ignore[method-assign, assignment]
    with pytest.raises(NonFiniteError, match=r"step 7: h\.0\.ln_1\.weight is not finite"):
        run.go()
    assert list(run.saved) == [0]


def test_a_validation_loss_that_is_not_finite_ends_the_run() -> None:
    run = Run(replace(PLAN, eval_interval=7))
    run.stepped = poison(run)  # type: ignore[method-assign, assignment]
    with pytest.raises(NonFiniteError, match="step 7: the validation loss is nan"):
        run.go()
    assert max(run.saved) < 7
