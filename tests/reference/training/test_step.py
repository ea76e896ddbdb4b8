"""One training step against the same step made of torch's parts."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from reference import GPT, GPTConfig, build_step
from reference.training.schedule import learning_rate

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8)
STEPS = 20
SCHEDULE = partial(learning_rate, peak=1e-2, warmup=5, total=STEPS, floor=1e-3)


def sharp_model() -> GPT:
    torch.manual_seed(1)
    model = GPT(CONFIG).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, CONFIG.vocab_size, (3, 9), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("clip", [0.05, 1.0, math.inf])
def test_twenty_steps_equal_torchs_optimizer_clipping_and_scheduler(clip: float) -> None:
    ours, theirs = sharp_model(), sharp_model()
    step = build_step(ours, SCHEDULE, weight_decay=0.1, betas=(0.9, 0.95), clip=clip)
    matrices = [p for p in theirs.parameters() if p.dim() >= 2]
    vectors = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(oracle, SCHEDULE)
    start = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for number in range(STEPS):
        loss = step(*batch(number))
        oracle.zero_grad()
        expected = theirs.loss(*batch(number))
        expected.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        oracle.step()
        scheduler.step()
        assert float(loss) == pytest.approx(expected.item(), rel=1e-11), f"loss of step {number}"
        assert float(step.gradient_norm) == pytest.approx(float(norm), rel=1e-9), f"norm at step {number}"
    if clip == 0.05:
        assert float(norm) > clip, "the clipping that this case is about never happened"
    for name, tensor in theirs.state_dict().items():
        update, expected = ours.state_dict()[name] - start[name], tensor - start[name]
        if name.endswith("k_proj.bias"):  # its gradient is zero but for rounding, and AdamW makes steps of that
            continue
        error = float((update - expected).norm() / expected.norm())
        assert error <= 1e-9, f"{name}: update of 20 steps differs by {error:.1e} of it, allowed 1e-9"


def test_the_schedule_counts_from_the_optimizers_steps_so_that_a_resumed_run_is_not_warmed_up_again() -> None:
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 1e-3

    step = build_step(sharp_model(), rate)
    step(*batch(0))
    state = step.optimizer.state_dict()
    state["step"] = torch.tensor(41)
    step.optimizer.load_state_dict(state)
    step(*batch(1))
    assert asked == [0, 41]


def test_gradients_of_one_step_do_not_leak_into_the_next() -> None:
    model = sharp_model()
    step = build_step(model, learning_rate=1e-300)  # the weights do not change
    first = float(step(*batch(0))), float(step.gradient_norm)
    step(*batch(1))
    again = float(step(*batch(0))), float(step.gradient_norm)
    assert again == first


def test_the_loss_is_detached_and_that_of_the_weights_before_the_update() -> None:
    model = sharp_model()
    with torch.no_grad():
        before = float(model.loss(*batch(0)))
    loss = build_step(model, 0.1)(*batch(0))
    assert not loss.requires_grad
    assert loss.shape == ()
    assert float(loss) == before
    with torch.no_grad():
        assert float(model.loss(*batch(0))) < before


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_an_invalid_clip_is_refused_with_the_value(clip: float) -> None:
    with pytest.raises(ValueError, match=f"clip = {clip}: give a number above 0"):
        build_step(sharp_model(), clip=clip)
