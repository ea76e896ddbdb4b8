"""Memory that is freed stays with the process, where its malloc can be told so."""

from __future__ import annotations

import ctypes
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
