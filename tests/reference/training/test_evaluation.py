"""The mean loss over a text, and its units."""

import math

import pytest
import torch
from torch import Tensor, nn

from reference import GPT, GPTConfig
from reference.data.batches import windows
from reference.training.evaluation import Score, mean_loss, windows_at_once

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
TOKENS = torch.randint(0, 11, (83,), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG).double()


class Constant(nn.Module):
    """A model whose loss on a batch is the mean of the batch's counted targets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return targets[targets != -1].double().mean()


def test_every_target_weighs_the_same_however_uneven_the_batches_are() -> None:
    first = torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 10)  # six targets of loss 10
    last = torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[40, -1, -1]])  # one of loss 40
    loss, count = mean_loss(Constant(), [first, last])
    assert count == 7
    assert loss == pytest.approx(100 / 7, rel=1e-15), "25 would be the mean of the two means"


def test_the_loss_does_not_depend_on_how_the_text_is_cut_into_batches(model: GPT) -> None:
    model.eval()
    with torch.no_grad():
        expected = sum(
            float(model.loss(ids, targets)) * int((targets != -1).sum()) for ids, targets in windows(TOKENS, 8, 1)
        ) / (len(TOKENS) - 1)
    for batch_size in (1, 2, 3, 7, 100):
        loss, count = mean_loss(model, windows(TOKENS, 8, batch_size))
        assert count == len(TOKENS) - 1
        assert loss == pytest.approx(expected, rel=1e-13), f"batches of {batch_size}"


def test_a_batch_without_targets_counts_for_nothing(model: GPT) -> None:
    nothing = torch.zeros(1, 8, dtype=torch.int64), torch.full((1, 8), -1)
    batches = list(windows(TOKENS, 8, 4))
    assert mean_loss(model, [nothing, *batches, nothing]) == mean_loss(model, batches)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        mean_loss(model, [nothing])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_during_evaluation_and_the_mode_is_as_before_afterwards(model: GPT, training: bool) -> None:
    model.train(training)
    first = mean_loss(model, windows(TOKENS, 8, 4))
    assert mean_loss(model, windows(TOKENS, 8, 4)) == first
    assert all(module.training == training for module in model.modules())

    def broken() -> object:
        yield from windows(TOKENS[:9], 8, 4)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        mean_loss(model, broken())  # type: ignore[arg-type]
    assert all(module.training == training for module in model.modules())


def test_evaluation_uses_no_random_numbers_and_leaves_no_gradients(model: GPT) -> None:
    before = torch.get_rng_state()
    mean_loss(model, windows(TOKENS, 8, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_score_says_the_same_in_all_units() -> None:
    # 3 tokens of 2 bits each make 6 bits, for 4 characters of which two take two bytes
    score = Score(loss=2 * math.log(2), tokens=3, characters=4, bytes=6)
    assert score.perplexity == pytest.approx(4)
    assert score.bits_per_character == pytest.approx(1.5)
    assert score.bits_per_byte == pytest.approx(1.0)
    assert Score(loss=1e4, tokens=1, characters=1, bytes=1).perplexity < math.inf


@pytest.mark.parametrize("block_size, vocab_size, expected", [(64, 103, 64), (1024, 50257, 1), (256, 1000, 16)])
def test_windows_at_once_keep_the_logits_small(block_size: int, vocab_size: int, expected: int) -> None:
    assert windows_at_once(block_size, vocab_size) == expected
