"""Memory that is freed stays with the process, where its malloc can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from optimized.memory import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory


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


FAULTS = """
import resource, sys, torch
from optimized.memory import keep_freed_memory
kept = sys.argv[1] == "kept"
if kept and not keep_freed_memory():
    sys.exit("no such malloc")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(32 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc, which Linux has")
def test_a_large_tensor_after_another_meets_no_page_faults() -> None:
    faults = {}
    for how in ("usual", "kept"):
        ended = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
        if "no such malloc" in ended.stderr:
            pytest.skip("this C library has no mallopt")
        assert ended.returncode == 0, ended.stderr
        faults[how] = int(ended.stdout)
    assert faults["kept"] * 10 < faults["usual"], faults
