"""The rung of the CPU's memory: what is freed stays with the process.

Every large tensor that torch frees on a CPU goes back to the operating system, which hands it out again page by page,
each cleared to zero and each at the price of a fault: some hundred thousand in a training step of GPT-2. A GPU does
not have this cost, because torch keeps what is freed there itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# malloc.h of glibc; mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def mallopt() -> Callable[[int, int], int] | None:
    """The C library's function that sets malloc's parameters; None where there is none: musl, macOS, Windows."""
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
    return found


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, for the rest of this process; False where it has no such setting.

    Large blocks come from the heap (no mmap for any of them) and the heap never shrinks. For the whole process: there
    is only one malloc in it.
    """
    setting = mallopt()
    return setting is not None and bool(setting(M_MMAP_MAX, 0) and setting(M_TRIM_THRESHOLD, -1))
