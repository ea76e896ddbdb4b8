"""One thread for every test of the fast model."""

from __future__ import annotations

import pytest

from tests.reference.cli.conftest import cli, trained

__all__ = ["cli", "trained"]  # fixtures: test_cli.py runs the commands of both packages


@pytest.fixture(autouse=True)
def pinned(one_thread: None) -> None:
    """Gradients are compared to their last bits here."""
