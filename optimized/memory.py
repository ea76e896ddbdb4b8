"""The memory slot: keep freed CPU memory in the process.

On a CPU, torch returns each large freed tensor to the operating system, which hands the memory out again page by page,
each one zeroed and each with a page fault: some hundred thousand faults per training step of GPT-2. On a GPU torch
keeps freed memory itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# malloc.h of glibc; mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def mallopt() -> Callable[[int, int], int] | None:
    """glibc's function that sets malloc's parameters; None on musl, macOS and Windows."""
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
    return found


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the rest of this process; False if it has no such setting.

    Large blocks come from the heap, not from mmap, and the heap never shrinks. Affects the whole process.
    """
    setting = mallopt()
    return setting is not None and bool(setting(M_MMAP_MAX, 0) and setting(M_TRIM_THRESHOLD, -1))
