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


# Blocks of the heap that come back are now and then a few bytes too small for the next tensor, because of how
# posix_memalign cuts them out; the heap then grows once more. After some steps it has all the sizes it needs.
FAULTS = """
import resource, sys
import torch
from optimized import FULL, build, build_step
from reference import SIZES

recipe = FULL.without("compile") if sys.argv[1] == "kept" else FULL.without("compile", "kept_memory")
step = build_step(build(SIZES["small"], recipe), recipe)
ids = torch.randint(SIZES["small"].vocab_size, (16, 64))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(ids, ids)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults() for _ in range(30)]
print(sorted(found[15:])[7])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc, which Linux has")
def test_training_meets_hardly_any_page_faults_once_the_heap_has_grown() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    faults = {}
    for how in ("usual", "kept"):
        ended = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        faults[how] = int(ended.stdout)
    assert faults["usual"] > 1_000, f"{faults}: nothing here that could be saved"
    assert faults["kept"] * 20 < faults["usual"], faults
