"""Threads pinned and the shapes that every proof runs over."""

from __future__ import annotations

import pytest

from tests.parity.observed import write_table


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table of the proofs, unless pytest-xdist spreads them over processes."""
    if not hasattr(session.config, "workerinput"):
        write_table()


@pytest.fixture(autouse=True)
def pinned(one_thread: None) -> None:
    """Gradients are compared to their last bits here."""
