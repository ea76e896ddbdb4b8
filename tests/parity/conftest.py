"""Threads pinned and the shapes that every proof runs over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity.observed import write_table


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table of the proofs; not where they are spread over processes, of which none has seen them all."""
    if not hasattr(session.config, "workerinput"):
        write_table()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads changes the order of sums, and so gradients in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
