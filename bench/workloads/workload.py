"""A workload: a model's shape and a batch's shape, their FLOPs, and the shape of their proof.

Shapes: B batch, T time, C width, L layers, H heads, V vocabulary, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.workloads.flops import forward_flops_per_token, training_flops_per_token
from reference.config import SIZES, GPTConfig

PRECISIONS = ("float64", "float32", "bfloat16")

# Limits of a proof, so that its float64 steps take seconds on two CPU cores. FLOPs of one training step: above it the
# batch and time shrink. FLOPs of all AdamW steps together: above it there are fewer steps.
PROOF_STEP_FLOPS = 2.5e11
TRAJECTORY_FLOPS = 3.2e11
LONGEST_TRAJECTORY, SHORTEST_TRAJECTORY = 20, 2


@dataclass(frozen=True)
class Workload:
    """A model and a batch; made by `workload`, which checks them."""

    size: str
    config: GPTConfig
    batch: int
    time: int
    new: int | None = None  # tokens to generate; None: by the scenario
    label: str = ""  # its name in bench/workloads/scenarios.py, if it has one

    @property
    def name(self) -> str:
        """Its name in results."""
        return self.label or self.size

    @property
    def tokens(self) -> int:
        """Tokens of one batch."""
        return self.batch * self.time

    def forward_flops(self) -> int:
        """FLOPs of the matrix products in one forward pass, by the formula of bench/workloads/flops.py."""
        return self.tokens * forward_flops_per_token(self.config, self.time)

    def step_flops(self) -> int:
        """FLOPs of the matrix products in one training step."""
        return self.tokens * training_flops_per_token(self.config, self.time)

    def of_shape(self, batch: int, time: int) -> Workload:
        """The same model with another batch shape."""
        return replace(self, batch=batch, time=time)

    def proof_shape(self) -> tuple[int, int]:
        """(B, T) for the proof of gradients and steps: this workload's, or a smaller shape if that is too large.

        The batch shrinks first, to no fewer than 2 sequences: with one, code that mixes up sequences would pass.
        Then the time shrinks.
        """
        shape = self
        while shape.step_flops() > PROOF_STEP_FLOPS and shape.batch > 2:
            shape = shape.of_shape(max(2, shape.batch // 2), shape.time)
        while shape.step_flops() > PROOF_STEP_FLOPS and shape.time > 32:
            shape = shape.of_shape(shape.batch, max(32, shape.time // 2))
        return shape.batch, shape.time

    def proof_steps(self) -> int:
        """AdamW steps of the proof: as many as `TRAJECTORY_FLOPS` allows, 2 to 20."""
        affordable = int(TRAJECTORY_FLOPS / self.of_shape(*self.proof_shape()).step_flops())
        return max(SHORTEST_TRAJECTORY, min(LONGEST_TRAJECTORY, affordable))


def workload(size: str, batch: int, time: int | None) -> Workload:
    """Make a workload from a user's options, without dropout.

    Args:
        size: a name in `reference.SIZES`
        batch: sequences, at least 1
        time: tokens of each, at most the block size; None for min(128, block size)

    Raises ValueError, one line, for an unknown size or a shape that does not fit it.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: give one of {', '.join(SIZES)}")
    config = replace(SIZES[size], dropout=0.0)
    if batch < 1:
        raise ValueError(f"--batch {batch}: give a whole number of at least 1")
    time = min(128, config.block_size) if time is None else time
    if not 1 <= time <= config.block_size:
        raise ValueError(f"--time {time}: {size} takes 1 to {config.block_size} tokens (its block size)")
    return Workload(size, config, batch, time)
