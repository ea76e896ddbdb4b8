"""The properties of a device that decide which rungs pay on it: plain values, so that tests can describe any machine.

No torch at import: the command line lists rungs without it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """A device, as the rules of `optimized.recipe` see it."""

    kind: str  # the device's type: cpu, cuda, mps, ...
    bfloat16: bool  # multiplies bfloat16 matrices by instructions of its own
    compiler: bool  # torch.compile has a C++ compiler (CPU) or Triton (CUDA)
    keeps_memory: bool  # malloc can keep freed memory (CPU)
    vectors: bool = True  # torch's own kernels use vector instructions
    cache: bool = True  # torch.compile can write its cache (CPU)
    tried: bool = True  # this project has run on this kind of device


def hardware_of(device: str) -> Hardware:
    """The hardware of a device of this machine, by its name or type: "cpu", "cuda:1"."""
    import torch

    from optimized.compilation import cache_folder, compilers, writable
    from optimized.memory import mallopt
    from reference.training.cpu import computes_bfloat16, has_vectors

    kind = torch.device(device).type
    if kind == "cpu":
        cache = writable(cache_folder())
        return Hardware(kind, computes_bfloat16(), bool(compilers()), mallopt() is not None, has_vectors(), cache)
    if kind == "cuda":
        from torch.utils._triton import has_triton  # what torch.compile writes for a GPU, instead of C++

        bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return Hardware(kind, bfloat16, torch.cuda.is_available() and has_triton(), keeps_memory=False)
    return Hardware(kind, bfloat16=False, compiler=False, keeps_memory=False, tried=False)
