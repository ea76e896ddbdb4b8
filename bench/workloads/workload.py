"""What is measured: a model's shape, a batch's shape, what they cost, and the part of it that is proven.

Shapes: B batch, T time, C width, L layers, H heads, V vocabulary, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.workloads.flops import forward_flops_per_token, training_flops_per_token
from reference.config import SIZES, GPTConfig

PRECISIONS = ("float64", "float32", "bfloat16")

# A float64 training step of so many operations takes a few seconds on two CPU cores. Proofs take their gradients and
# steps on a batch that costs no more than the first, as far as that can be had, and no more steps than the second.
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

    @property
    def tokens(self) -> int:
        """Tokens of one batch."""
        return self.batch * self.time

    def forward_flops(self) -> int:
        """Operations in the matrix products of one forward pass, by the formula of bench/workloads/flops.py."""
        return self.tokens * forward_flops_per_token(self.config, self.time)

    def step_flops(self) -> int:
        """Operations in the matrix products of one training step."""
        return self.tokens * training_flops_per_token(self.config, self.time)

    def of_shape(self, batch: int, time: int) -> Workload:
        """The same model with another batch."""
        return replace(self, batch=batch, time=time)

    def proof_shape(self) -> tuple[int, int]:
        """(B, T) on which gradients and steps are proven: this workload's own, or a smaller one if it is large.

        The batch shrinks first, but not to one sequence, with which a mix-up of sequences could not be seen; then
        the time.
        """
        shape = self
        while shape.step_flops() > PROOF_STEP_FLOPS and shape.batch > 2:
            shape = shape.of_shape(max(2, shape.batch // 2), shape.time)
        while shape.step_flops() > PROOF_STEP_FLOPS and shape.time > 32:
            shape = shape.of_shape(shape.batch, max(32, shape.time // 2))
        return shape.batch, shape.time

    def proof_steps(self) -> int:
        """How many AdamW steps are proven: 20, or as many as `TRAJECTORY_FLOPS` affords, but at least 2."""
        affordable = int(TRAJECTORY_FLOPS / self.of_shape(*self.proof_shape()).step_flops())
        return max(SHORTEST_TRAJECTORY, min(LONGEST_TRAJECTORY, affordable))


def workload(size: str, batch: int, time: int | None) -> Workload:
    """The workload that a user asks for, without dropout.

    Args:
        size: a name in `reference.SIZES`
        batch: sequences, at least 1
        time: tokens of each, at most the size's block; None for 128, or the block if that is shorter

    Raises ValueError, one line, for an unknown size or a shape that it does not take.
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
