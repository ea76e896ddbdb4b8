"""The readable GPT is Hugging Face's GPT-2: logits, loss, every gradient, 20 AdamW steps."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bench.contenders.huggingface_model import HuggingFaceGPT
from bench.contenders.torch_step import build_library_step
from bench.numerics.budgets import BUDGETS
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.numerics.outputs import BuildStep, ModelOutputs, collect_outputs, compare_outputs
from bench.parity import assert_same
from reference import GPT, SIZES, GPTConfig, build_step
from tests.parity.shapes import LENGTHS, SHAPES


def pair(config: GPTConfig, attention: str, precision: str, seed: int = 0) -> tuple[GPT, HuggingFaceGPT]:
    """Ours in a precision and Hugging Face's in float64, with the same sharp weights."""
    weights = sharp_state_dict(config, seed)
    ours, theirs = GPT(config).to(getattr(torch, precision)), HuggingFaceGPT(config, attention).double()
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return ours, theirs


@cache
def answers_of_ours(shape: str, T: int, precision: str) -> ModelOutputs:
    """Asked once, held against both of theirs."""
    ours = GPT(SHAPES[shape]).to(getattr(torch, precision))
    return trained(ours, build_step, shape, T)


@cache
def answers_of_theirs(shape: str, T: int, attention: str) -> ModelOutputs:
    return trained(HuggingFaceGPT(SHAPES[shape], attention).double(), build_library_step, shape, T)


def trained(model: nn.Module, build: BuildStep, shape: str, T: int) -> ModelOutputs:
    """The answers of a model with sharp weights; 20 AdamW steps where the block is full, and at one shorter length."""
    weights, batch = sharp_state_dict(SHAPES[shape], seed=T), random_batch(SHAPES[shape], 3, T, seed=T)
    model.load_state_dict(weights)
    steps = 20 if T in (7, SHAPES[shape].block_size) else 0
    return collect_outputs(model, build, batch, batch, steps, learning_rate=1e-4, weights=weights)


@pytest.mark.parametrize(("attention", "precision"), [("eager", "float64"), ("sdpa", "float64"), ("sdpa", "float32")])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_reference_equals_hugging_face(shape: str, T: int, attention: str, precision: str) -> None:
    report = compare_outputs(answers_of_ours(shape, T, precision), answers_of_theirs(shape, T, attention))
    failures = report.failures(BUDGETS[precision])
    assert not failures, failures[:3]
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


def answers(model: nn.Module, config: GPTConfig, B: int, T: int) -> ModelOutputs:
    batch = random_batch(config, B, T)
    return collect_outputs(model, build_library_step, batch, batch, steps=0, learning_rate=0.0)


def answers_of_hugging_face(
    config: GPTConfig, weights: dict[str, Tensor], attention: str, B: int, T: int
) -> ModelOutputs:
    """Of its model in float64, which is gone by then: of gpt2's size it takes 2 GB with its gradients."""
    theirs = HuggingFaceGPT(config, attention).double()
    theirs.load_state_dict(weights)
    found = answers(theirs, config, B, T)
    del theirs
    gc.collect()  # transformers' models refer to themselves
    return found


def assert_same_answers(config: GPTConfig, weights: dict[str, Tensor], precision: str, expected: ModelOutputs) -> None:
    """Hold ours, in a precision, against Hugging Face's."""
    ours = GPT(config).to(getattr(torch, precision))
    ours.load_state_dict(weights)
    found = answers(ours, config, *expected.logits.shape[:2])
    del ours
    report = compare_outputs(found, expected)
    failures = report.failures(BUDGETS[precision])
    assert not failures, failures[:3]
    assert len(report.measurements) == 2 + len(expected.gradients), "logits, loss, every gradient"


def test_reference_equals_hugging_face_with_the_width_heads_and_vocabulary_of_gpt2() -> None:
    """A layer of it, which takes a tenth of the time and a third of the memory that all twelve do."""
    config = replace(SIZES["gpt2"], n_layer=1)
    weights = sharp_state_dict(config, dtype=torch.float32)
    assert_same_answers(config, weights, "float64", answers_of_hugging_face(config, weights, "eager", 2, 24))


@pytest.fixture(scope="module")
def gpt2_weights() -> dict[str, Tensor]:
    return sharp_state_dict(SIZES["gpt2"], dtype=torch.float32)


@pytest.fixture(scope="module")
def gpt2_at_full_length(gpt2_weights: dict[str, Tensor]) -> ModelOutputs:
    """What Hugging Face's model answers in float64 to a sequence of 1,024 tokens; once, as it takes long."""
    torch.set_num_threads(2)
    return answers_of_hugging_face(SIZES["gpt2"], gpt2_weights, "sdpa", 1, SIZES["gpt2"].block_size)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_reference_equals_hugging_face_at_the_real_gpt2_size_and_full_length(
    gpt2_weights: dict[str, Tensor], gpt2_at_full_length: ModelOutputs, precision: str
) -> None:
    torch.set_num_threads(2)
    assert_same_answers(SIZES["gpt2"], gpt2_weights, precision, gpt2_at_full_length)


@pytest.mark.slow
def test_reference_equals_hugging_face_with_explicit_attention_at_the_real_gpt2_size(
    gpt2_weights: dict[str, Tensor],
) -> None:
    torch.set_num_threads(2)
    expected = answers_of_hugging_face(SIZES["gpt2"], gpt2_weights, "eager", 1, 24)
    assert_same_answers(SIZES["gpt2"], gpt2_weights, "float64", expected)


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
