"""A workload's FLOPs and the shape of its proof."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.numerics.inputs import random_batch
from bench.workloads.workload import PROOF_STEP_FLOPS, Workload, workload
from reference import GPT, SIZES, GPTConfig


@pytest.mark.parametrize("B,T", [(1, 1), (2, 7), (3, 32)])
def test_the_formula_counts_the_operations_that_torch_counts(B: int, T: int) -> None:
    config = GPTConfig(block_size=32, vocab_size=101, n_layer=3, n_head=4, n_embd=24)
    work, model = Workload("some", config, B, T), GPT(config)
    ids, targets = random_batch(config, B, T)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(ids)
    assert forward.get_total_flops() == work.forward_flops()
    with FlopCounterMode(display=False) as both:
        model.loss(ids, targets).backward()
    # every product's input needs a gradient: only the embedding's does not, and that is no product
    assert both.get_total_flops() == work.step_flops()


@pytest.mark.parametrize("size", SIZES)
def test_a_workload_has_no_dropout_and_fits_its_block(size: str) -> None:
    work = workload(size, 2, None)
    assert work.config.dropout == 0.0
    assert work.time == min(128, SIZES[size].block_size)
    assert work.tokens == 2 * work.time


@pytest.mark.parametrize(
    "size,B,T,shape,steps",
    [
        ("tiny", 4, 64, (4, 64), 20),  # the whole batch and all steps
        ("gpt2", 1, 128, (1, 128), 3),
        ("gpt2", 4, 512, (2, 128), 2),
        ("gpt2", 3, 512, (2, 128), 2),
        ("gpt2", 1, 1024, (1, 256), 2),
        ("gpt2-xl", 8, 1024, (2, 32), 2),  # above the limit, but a smaller batch would prove too little
    ],
)
def test_the_proof_has_the_whole_shape_or_an_affordable_one_with_two_sequences(
    size: str, B: int, T: int, shape: tuple[int, int], steps: int
) -> None:
    work = workload(size, B, T)
    assert (work.proof_shape(), work.proof_steps()) == (shape, steps)
    if shape[1] > 32:
        assert work.of_shape(*shape).step_flops() <= PROOF_STEP_FLOPS


@pytest.mark.parametrize(
    "size,B,T,message",
    [
        ("gpt3", 1, 8, r"^unknown size 'gpt3': give one of gpt2, gpt2-medium, "),
        ("gpt2", 0, 8, r"^--batch 0: give a whole number of at least 1$"),
        ("gpt2", 1, 0, r"^--time 0: gpt2 takes 1 to 1024 tokens \(its block size\)$"),
        ("tiny", 1, 65, r"^--time 65: tiny takes 1 to 64 tokens \(its block size\)$"),
    ],
)
def test_an_impossible_workload_is_refused(size: str, B: int, T: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(size, B, T)
