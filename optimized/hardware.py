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
    compiler: bool  # torch.compile has what it needs: a C++ compiler for a CPU, Triton for CUDA
    keeps_memory: bool  # the CPU's malloc can be told to keep what is freed
    vectors: bool = True  # torch's own kernels use vector instructions
    tried: bool = True  # there is something to judge by: not where this project has never run, as on mps


def hardware_of(device: str) -> Hardware:
    """The hardware of a device of this machine, by its name or type: "cpu", "cuda:1"."""
    import torch

    from optimized.compilation import compilers
    from optimized.memory import mallopt
    from reference.training.cpu import computes_bfloat16, has_vectors

    kind = torch.device(device).type
    if kind == "cpu":
        return Hardware(kind, computes_bfloat16(), bool(compilers()), mallopt() is not None, has_vectors())
    if kind == "cuda":
        from torch.utils._triton import has_triton  # what torch.compile writes for a GPU, instead of C++

        bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return Hardware(kind, bfloat16, torch.cuda.is_available() and has_triton(), keeps_memory=False)
    return Hardware(kind, bfloat16=False, compiler=False, keeps_memory=False, tried=False)
