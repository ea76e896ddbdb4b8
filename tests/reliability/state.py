"""Checkpoints that are pure functions of their step, so that a reader can check their content."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import GPTConfig
from reference.checkpoints.checkpoint import Checkpoint
from reference.checkpoints.huggingface import canonical_shapes

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.1)


def checkpoint_at(
    step: int, config: GPTConfig = CONFIG, dtype: torch.dtype = torch.float32, flavour: str = ""
) -> Checkpoint:
    """The checkpoint of this step; another flavour differs in the run only."""
    generator = torch.Generator().manual_seed(step)

    def drawn() -> dict[str, Tensor]:
        shapes = canonical_shapes(config).items()
        return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes}

    return Checkpoint(
        step=step,
        config=config,
        model=drawn(),
        optimizer={
            "step": torch.tensor(step),
            **{f"exp_avg/{name}": tensor for name, tensor in drawn().items()},
            **{f"exp_avg_sq/{name}": tensor.square() for name, tensor in drawn().items()},
        },
        tokenizer={"name": "char", "characters": "\n !abcé\u2028\U0001f600\ud800"},
        run={
            "seed": 7,
            "data": {"name": "pydocs", "fraction": 0.9},
            "losses": [4.5, 1e-300],
            "flavour": flavour,
        },
    )


def assert_equal(read: Checkpoint, written: Checkpoint) -> None:
    """Fail unless both are the same to the last bit, types and order included."""
    for what in ("step", "config", "tokenizer", "run"):
        assert getattr(read, what) == getattr(written, what), what
    for what in ("model", "optimizer"):
        ours, theirs = getattr(read, what), getattr(written, what)
        assert ours.keys() == theirs.keys(), what
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype, f"{what}: {name} is {ours[name].dtype}, not {tensor.dtype}"
            assert torch.equal(as_bits(ours[name]), as_bits(tensor)), f"{what}: {name} differs"


def as_bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: nan equals itself, and 0 is not -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
