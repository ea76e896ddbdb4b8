"""Freed memory stays with the process, if its malloc has the setting."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from optimized.memory import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory, mallopt


def with_malloc(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library if name is None else pytest.fail(f"opened {name}"))


@pytest.mark.parametrize("refused", [None, M_MMAP_MAX, M_TRIM_THRESHOLD])
def test_both_settings_are_made_and_it_says_whether_they_were_taken(
    refused: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        asked[parameter] = value
        return int(parameter != refused)

    with_malloc(monkeypatch, SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() is (refused is None)
    assert asked.items() <= {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}.items()
    assert refused is not None or len(asked) == 2


def test_a_malloc_without_such_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with_malloc(monkeypatch, SimpleNamespace())
    assert keep_freed_memory() is False


# Larger than any threshold that glibc adapts (32 MB), so that its malloc asks the system for each again.
FAULTS = """
import resource
import torch
from optimized import PLAIN, build, only
from reference import SIZES

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for recipe in (PLAIN, only("kept_memory")):
    build(SIZES["tiny"], recipe)
    print(sorted(faults() for _ in range(9))[4])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc, which Linux has")
def test_a_large_tensor_meets_no_page_faults_once_one_like_it_was_freed() -> None:
    if mallopt() is None:
        pytest.skip("this C library has no mallopt")
    ended = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    usual, kept = map(int, ended.stdout.split())
    if usual < 1_000:
        pytest.skip(f"{usual} faults for 64 MB: this system has large pages, and nothing can be saved")
    assert kept * 20 < usual, f"{kept} faults of {usual}"
