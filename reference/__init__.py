"""GPT-2 in plain, readable PyTorch, from scratch. Begin with gpt.py."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference.config import SIZES, GPTConfig
    from reference.gpt import GPT
    from reference.sampling import generate
    from reference.step import build_step

__all__ = ["GPT", "SIZES", "GPTConfig", "build_step", "generate"]

# Each name's module is imported when the name is first used: torch takes a second or two, and `--help` needs none.
HOMES = {"GPT": "gpt", "SIZES": "config", "GPTConfig": "config", "build_step": "step", "generate": "sampling"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
