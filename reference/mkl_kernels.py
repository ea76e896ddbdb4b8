"""Makes MKL choose its kernels while one thread runs.

MKL 2024.2, which PyTorch's wheels for x86-64 contain, chooses the kernel of `exp`, `log`, `sqrt` and their like at the
first call. Where two threads make that call at once, one of them may get a kernel of low accuracy: its half of that one
result is off by up to 1e-4, and the next call is right (https://github.com/pytorch/pytorch/issues/188792). About one
process in thirty begins its first forward pass so, on two cores; the proofs here compare down to 1e-12.
"""

from __future__ import annotations

import torch

FUNCTIONS = (torch.exp, torch.log, torch.sqrt, torch.tanh, torch.erf, torch.sin, torch.cos)


def choose_kernels() -> None:
    """Call each function once, on tensors of one number, which torch computes in the calling thread.

    Every module of formulas calls it when it is imported, before two threads can compute anything.
    """
    for dtype in (torch.float32, torch.float64):
        for function in FUNCTIONS:
            function(torch.ones(1, dtype=dtype, device="cpu"))
