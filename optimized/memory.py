"""The rung of the CPU's memory: what is freed stays with the process.

Every large tensor that torch frees on a CPU goes back to the operating system, which hands it out again page by page,
each cleared to zero and each at the price of a fault: some hundred thousand in a training step of GPT-2. A GPU does
not have this cost, because torch keeps what is freed there itself.
"""

from __future__ import annotations

import ctypes

# malloc.h of glibc; mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, for the rest of this process; False where it has no such setting.

    Large blocks come from the heap (no mmap for any of them) and the heap never shrinks. For the whole process: there
    is only one malloc in it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
