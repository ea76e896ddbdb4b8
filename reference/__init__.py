"""GPT-2 in plain, readable PyTorch, from scratch. Begin with gpt.py."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference.config import SIZES, GPTConfig
    from reference.gpt import GPT
    from reference.sampling import generate
    from reference.training.step import build_step

__all__ = ["GPT", "SIZES", "GPTConfig", "build_step", "from_hf", "generate", "to_hf"]

# Each name's module is imported when the name is first used: torch takes a second or two, and `--help` needs none.
HOMES = {
    "GPT": "gpt",
    "SIZES": "config",
    "GPTConfig": "config",
    "build_step": "training.step",
    "from_hf": "checkpoints.huggingface",
    "generate": "sampling",
    "to_hf": "checkpoints.huggingface",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
