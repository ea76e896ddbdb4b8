"""The readable GPT is Hugging Face's GPT-2: logits, loss, every gradient, 20 AdamW steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.budgets import BUDGETS
from bench.hot import hot_state_dict, random_batch
from bench.huggingface import HuggingFaceGPT
from bench.library_step import build_library_step
from bench.observation import Observation, hold_against, observe
from bench.parity import assert_same
from reference import GPT, SIZES, GPTConfig
from tests.parity.shapes import LENGTHS, SHAPES


def pair(config: GPTConfig, attention: str, precision: str, seed: int = 0) -> tuple[GPT, HuggingFaceGPT]:
    """Ours in a precision and Hugging Face's in float64, with the same hot weights."""
    weights = hot_state_dict(config, seed)
    ours, theirs = GPT(config).to(getattr(torch, precision)), HuggingFaceGPT(config, attention).double()
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return ours, theirs


@pytest.mark.parametrize(("attention", "precision"), [("eager", "float64"), ("sdpa", "float64"), ("sdpa", "float32")])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_reference_equals_hugging_face(shape: str, T: int, attention: str, precision: str) -> None:
    config = SHAPES[shape]
    ours, theirs = pair(config, attention, precision, seed=T)
    ids, targets = random_batch(config, 3, T, seed=T)
    report = assert_same(ours, theirs, ids, targets, precision, oracle_build=build_library_step)
    if precision == "float64":
        assert report.top1 == 1.0, f"the most probable token differs at {1 - report.top1:.1%} of the positions"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_reference_equals_hugging_face_with_a_batch_of_one_and_no_ignored_target(attention: str) -> None:
    config = SHAPES["usual"]
    ours, theirs = pair(config, attention, "float64")
    ids, targets = random_batch(config, 1, 33, ignored=0.0)
    assert_same(ours, theirs, ids, targets, oracle_build=build_library_step)


def test_reference_equals_hugging_face_when_only_one_target_counts() -> None:
    config = SHAPES["usual"]
    ours, theirs = pair(config, "eager", "float64")
    ids, targets = random_batch(config, 2, 33)
    targets[:] = -1
    targets[1, 20] = 5
    assert_same(ours, theirs, ids, targets, oracle_build=build_library_step)


@pytest.fixture(scope="module")
def gpt2_pair() -> tuple[GPT, HuggingFaceGPT]:
    return pair(SIZES["gpt2"], "eager", "float64")


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def test_reference_equals_hugging_face_at_the_real_gpt2_size(
    gpt2_pair: tuple[GPT, HuggingFaceGPT], attention: str
) -> None:
    torch.set_num_threads(2)
    ours, theirs = gpt2_pair
    theirs.model.set_attn_implementation(attention)
    ids, targets = random_batch(SIZES["gpt2"], 1, 24)
    assert_same(ours, theirs, ids, targets, steps=0)


@pytest.fixture(scope="module")
def gpt2_at_full_length() -> Observation:
    """What Hugging Face's model answers in float64 to a sequence of 1,024 tokens; once, as it takes long."""
    config = SIZES["gpt2"]
    theirs = HuggingFaceGPT(config, "sdpa").double()
    theirs.load_state_dict(hot_state_dict(config, 0))
    torch.set_num_threads(2)
    return answers(theirs)


def answers(model: nn.Module) -> Observation:
    batch = random_batch(SIZES["gpt2"], 1, SIZES["gpt2"].block_size)
    return observe(model, build_library_step, batch, batch, steps=0, learning_rate=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_reference_equals_hugging_face_at_the_real_gpt2_size_and_full_length(
    gpt2_at_full_length: Observation, precision: str
) -> None:
    ours = GPT(SIZES["gpt2"]).to(getattr(torch, precision))
    ours.load_state_dict(hot_state_dict(SIZES["gpt2"], 0))
    torch.set_num_threads(2)
    report = hold_against(answers(ours), gpt2_at_full_length)
    failures = report.failures(BUDGETS[precision])
    assert not failures, failures[:3]
    assert len(report.measurements) == 2 + len(gpt2_at_full_length.gradients), "logits, loss, every gradient"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_on_cuda_equals_hugging_face_on_the_cpu(shape: str, precision: str) -> None:
    config = SHAPES[shape]
    ours, theirs = pair(config, "eager", precision)
    ids, targets = random_batch(config, 3, 64)
    assert_same(ours.cuda(), theirs, ids, targets, precision, oracle_build=build_library_step)


def test_the_wrapper_computes_the_loss_in_the_precision_of_the_model() -> None:
    config = SHAPES["one-layer"]
    _, theirs = pair(config, "eager", "float64")
    assert theirs.loss(*random_batch(config, 2, 8)).dtype == torch.float64


@pytest.mark.parametrize("shape", SHAPES)
def test_freshly_initialised_weights_give_the_same_logits_too(shape: str) -> None:
    config = SHAPES[shape]
    torch.manual_seed(7)
    ours, theirs = GPT(config).double(), HuggingFaceGPT(config).double()
    theirs.load_state_dict(ours.state_dict())
    ids, targets = random_batch(config, 2, 40)
    assert_same(ours, theirs, ids, targets, steps=0)
