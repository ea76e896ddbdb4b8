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
from tests.quick import quick


def pair(config: GPTConfig, attention: str, precision: str, seed: int = 0) -> tuple[GPT, HuggingFaceGPT]:
    """Ours in a precision and Hugging Face's in float64, with the same sharp weights."""
    weights = sharp_state_dict(config, seed)
    ours = GPT(config).to(getattr(torch, precision))
    theirs = HuggingFaceGPT(config, attention, draw=False).double()
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return ours, theirs


@cache
def answers_of_theirs(shape: str, T: int, attention: str) -> ModelOutputs:
    """Asked once, for both precisions of ours."""
    theirs = HuggingFaceGPT(SHAPES[shape], attention, draw=False).double()
    return trained(theirs, build_library_step, shape, T)


def trained(model: nn.Module, build: BuildStep, shape: str, T: int) -> ModelOutputs:
    """The answers of a model with sharp weights; 20 AdamW steps where the block is full, a few at a shorter length."""
    weights, batch = sharp_state_dict(SHAPES[shape], seed=T), random_batch(SHAPES[shape], 3, T, seed=T)
    model.load_state_dict(weights)
    steps = {SHAPES[shape].block_size: 20, 7: 5}.get(T, 0)
    return collect_outputs(model, build, batch, batch, steps, learning_rate=1e-4, weights=weights)


# Their attentions take turns: each meets every shape and every length. At the full block, both meet the usual shape.
CASES = [
    (shape, T, ("eager", "sdpa")[(row + column) % 2])
    for row, shape in enumerate(SHAPES)
    for column, T in enumerate(LENGTHS)
]
CASES.append(("usual", 80, "sdpa"))


@pytest.mark.parametrize("precision", quick(["float64", "float32"], "float64"))
@pytest.mark.parametrize(("shape", "T", "attention"), CASES)
def test_reference_equals_hugging_face(shape: str, T: int, attention: str, precision: str) -> None:
    ours = trained(GPT(SHAPES[shape]).to(getattr(torch, precision)), build_step, shape, T)
    report = compare_outputs(ours, answers_of_theirs(shape, T, attention))
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
    theirs = HuggingFaceGPT(config, attention, draw=False).double()
    theirs.load_state_dict(weights)
    found = answers(theirs, config, B, T)
    del theirs
    gc.collect()  # transformers' models refer to themselves
    return found


def assert_same_answers(config: GPTConfig, weights: dict[str, Tensor], precision: str, expected: ModelOutputs) -> None:
    """Hold ours, in a precision, against Hugging Face's."""
    with torch.device("meta"):  # draws no weights, which takes seconds
        ours = GPT(config).to(getattr(torch, precision))
    ours.to_empty(device="cpu").load_state_dict(weights)
    found = answers(ours, config, *expected.logits.shape[:2])
    del ours
    report = compare_outputs(found, expected)
    failures = report.failures(BUDGETS[precision])
    assert not failures, failures[:3]
    assert len(report.measurements) == 2 + len(expected.gradients), "logits, loss, every gradient"


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "precision", [pytest.param("float64", marks=pytest.mark.slow), pytest.param("float32", marks=pytest.mark.long)]
)
def test_reference_equals_hugging_face_at_the_real_gpt2_size_and_full_length(
    gpt2_weights: dict[str, Tensor], gpt2_at_full_length: ModelOutputs, precision: str
) -> None:
    torch.set_num_threads(2)
    assert_same_answers(SIZES["gpt2"], gpt2_weights, precision, gpt2_at_full_length)


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
    ours, theirs = GPT(config).double(), HuggingFaceGPT(config, draw=False).double()
    theirs.load_state_dict(ours.state_dict())
    ids, targets = random_batch(config, 2, 40)
    assert_same(ours, theirs, ids, targets, steps=0)
