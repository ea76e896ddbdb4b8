"""What a device has that decides which rungs pay on it: plain values, so that a test can describe any machine.

No torch at import, so that the command line can ask about rungs before it is there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """A device, as the rules of `optimized.recipe` see it."""

    kind: str  # the device's type: cpu, cuda, mps, ...
    bfloat16: bool  # multiplies bfloat16 matrices by instructions of its own
    compiler: bool  # torch.compile has what it needs: on a CPU a C++ compiler
    keeps_memory: bool  # the CPU's malloc can be told to keep what is freed
    vectors: bool = True  # torch's own kernels use vector instructions


def hardware_of(device: str) -> Hardware:
    """The hardware of a device of this machine, by its name or type: "cpu", "cuda:1"."""
    import torch

    from optimized.compilation import compilers
    from optimized.memory import mallopt
    from reference.cpu import computes_bfloat16, has_vectors

    kind = torch.device(device).type
    if kind == "cpu":
        return Hardware(kind, computes_bfloat16(), bool(compilers()), mallopt() is not None, has_vectors())
    bfloat16 = kind != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    return Hardware(kind, bfloat16, bool(compilers()), keeps_memory=False)
