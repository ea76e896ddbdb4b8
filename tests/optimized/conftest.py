"""Threads pinned for every test of the fast parts."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def pinned(one_thread: None) -> None:
    """Gradients are compared to their last bits here."""
