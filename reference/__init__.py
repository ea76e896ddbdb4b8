"""GPT-2 in plain, readable PyTorch, from scratch. Begin with gpt.py."""

from reference.config import SIZES, GPTConfig
from reference.gpt import GPT
from reference.sampling import generate
from reference.step import build_step

__all__ = ["GPT", "SIZES", "GPTConfig", "build_step", "generate"]
