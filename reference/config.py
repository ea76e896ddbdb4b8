"""The shape of a GPT-2, and the shapes that have names."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. Immutable; wrong values raise ValueError."""

    block_size: int = 1024  # T at most: one row of the position table for each position
    vocab_size: int = 50257  # V: 50,000 BPE merges + 256 bytes + <|endoftext|>
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768  # C, split evenly over the heads
    dropout: float = 0.0  # 0.1 in the paper; 0 for pretrained weights and for comparisons
    bias: bool = True  # GPT-2 has biases in every linear layer and every LayerNorm

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} = {value!r}: give a whole number of at least 1")
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias = {self.bias!r}: give True or False")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float):
            raise ValueError(f"dropout = {self.dropout!r}: give a number from 0 up to, not including, 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout = {self.dropout!r}: give a number from 0 up to, not including, 1")
        if self.n_embd % self.n_head != 0:
            allowed = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            raise ValueError(
                f"n_head = {self.n_head} does not divide n_embd = {self.n_embd}: give one of "
                f"{', '.join(map(str, allowed))}, or another n_embd"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head, C / n_head."""
        return self.n_embd // self.n_head

    def parameter_count(self) -> int:
        """Number of trained values, the tied table counted once."""
        C, bias = self.n_embd, int(self.bias)
        norm = C + bias * C
        attention = 4 * (C * C + bias * C)
        mlp = 8 * C * C + bias * 5 * C
        return (self.vocab_size + self.block_size) * C + self.n_layer * (2 * norm + attention + mlp) + norm

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> GPTConfig:
        """The config from what `dataclasses.asdict` gave; ValueError for an unknown or missing field."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            unknown, missing = sorted(set(values) - known), sorted(known - set(values))
            raise ValueError(f"model config: unknown fields {unknown}, missing fields {missing}")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks every value


# The four published GPT-2s (Radford et al. 2019, table 2; widths as released), then shapes for learning on a
# small machine. The vocabulary of the learning sizes is a placeholder: training replaces it by the tokenizer's.
SIZES: dict[str, GPTConfig] = {
    "gpt2": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
    # small enough for tests and first steps: an epoch of a short text in seconds
    "tiny": GPTConfig(block_size=64, vocab_size=256, n_layer=2, n_head=2, n_embd=64),
    # nanoGPT's settings for a CPU: characters, validation loss 1.88 on tinyshakespeare
    "small": GPTConfig(block_size=64, vocab_size=256, n_layer=4, n_head=4, n_embd=128),
    # the counting model: 2,673,792 parameters with that corpus' 25 characters
    "counting": GPTConfig(block_size=64, vocab_size=25, n_layer=6, n_head=6, n_embd=192, dropout=0.1, bias=False),
    # nanoGPT's settings for one GPU: characters, validation loss 1.47 on tinyshakespeare
    "characters": GPTConfig(block_size=256, vocab_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2),
    # GPT-2's vocabulary and proportions, at a size that two CPU cores can measure in minutes
    "mini": GPTConfig(block_size=256, n_layer=4, n_head=4, n_embd=256),
}
