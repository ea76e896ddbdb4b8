"""Which cases of a parametrized test are run by default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """The cases, all but the chosen ones marked slow; ValueError if a chosen one is no case."""
    cases = list(cases)
    unknown = [one for one in chosen if one not in cases]
    if unknown:
        raise ValueError(f"{unknown}: no such case among {cases}")
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in cases]
