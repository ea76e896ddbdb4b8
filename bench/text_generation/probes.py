"""What is generated: prompts, settings and lengths that tell mistakes apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.text_generation.model import CONFIG

BLOCK = CONFIG.block_size
Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Settings:
    """How tokens are drawn."""

    temperature: float = 1.0  # 0: greedy
    top_k: int | None = None
    top_p: float | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0.0

    def __str__(self) -> str:
        if self.greedy:
            return "greedy"
        limits = [f"top-k {self.top_k}"] * (self.top_k is not None) + [f"top-p {self.top_p}"] * (self.top_p is not None)
        return ", ".join([f"temperature {self.temperature:g}", *limits])


GREEDY = Settings(temperature=0.0)


@dataclass(frozen=True)
class Probe:
    """One call of a generator."""

    title: str
    prompts: Rows  # of the same length, unless padded
    new: int  # tokens to append
    settings: Settings = GREEDY
    seed: int = 1
    tied: bool = False  # whether some tokens always have the same logits
    padded: bool = False  # prompts of unequal length, padded at the left
    cached: bool | None = None  # the value of use_cache, if the function takes it
    eos: int | None = None  # generation of a row ends after this token
    train: bool = False  # the model is in train mode

    @property
    def width(self) -> int:
        """The length of the prompts, padding included."""
        return max(map(len, self.prompts))


def prompts(seed: int, *lengths: int) -> Rows:
    """Random prompts."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(tuple(torch.randint(CONFIG.vocab_size, (n,), generator=generator).tolist()) for n in lengths)


SHORT, OTHER = prompts(1, 5, 5, 5), prompts(2, 6, 6)
LONG, LONGER = prompts(3, 12, 12), prompts(4, 21, 21)
ALIKE = prompts(5, 4) * 4  # rows of one prompt
UNEQUAL = prompts(6, 7, 3, 5, 1)

GREEDY_PROBES = (
    Probe("greedy", SHORT, 6),
    Probe("greedy, one prompt of one token", prompts(7, 1), 5),
    Probe("greedy, beyond the block", LONG, 9),
    Probe("greedy, a prompt longer than the block", LONGER, 4),
)
SAMPLED_PROBES = (
    Probe("sampled, temperature 1", SHORT, 6, Settings()),
    Probe("sampled, rows of one prompt", ALIKE, 4, Settings(), seed=2),
    Probe("sampled, beyond the block", LONG, 7, Settings(), seed=3),
)
# by the arguments that a function must take
SETTINGS_PROBES = {
    ("temperature",): (Probe("temperature 0.6", SHORT, 6, Settings(0.6), seed=4),),
    ("top_k",): (
        Probe("top-k 4", SHORT, 8, Settings(1.0, 4), seed=5),
        Probe("top-k 1", SHORT, 4, Settings(1.0, 1), seed=6),
        Probe(f"top-k {CONFIG.vocab_size + 9}, above the vocabulary", OTHER, 3, Settings(1.0, CONFIG.vocab_size + 9)),
    ),
    ("temperature", "top_k"): (Probe("temperature 0.6, top-k 4", OTHER, 6, Settings(0.6, 4), seed=7),),
    ("top_p",): (
        Probe("top-p 0.6", SHORT, 8, Settings(1.0, None, 0.6), seed=8),
        Probe("top-p 0.9", OTHER, 8, Settings(1.0, None, 0.9), seed=9),
    ),
    ("temperature", "top_p"): (Probe("temperature 1.5, top-p 0.7", OTHER, 8, Settings(1.5, None, 0.7), seed=10),),
    ("top_k", "top_p"): (Probe("top-k 6, top-p 0.7", SHORT, 10, Settings(1.0, 6, 0.7), seed=11),),
}
PADDED_PROBES = (
    Probe("padded batch, greedy", UNEQUAL, 5, padded=True),
    Probe("padded batch, sampled", UNEQUAL, 5, Settings(), seed=13, padded=True),
    Probe("padded batch, beyond the block", prompts(8, 12, 4, 9), 8, padded=True),
)
EOS_PROBES = (
    Probe("end-of-text token, one row", SHORT[:1], 6, eos=-1),  # -1: the third token of the first row
    Probe("end-of-text token, three rows", SHORT, 6, eos=-1),
)
ROUNDS = 6  # calls of the probe of ties


def ties(greedy: bool) -> tuple[Probe, ...]:
    """Top-k where several tokens tie with the k-th: short texts of many seeds, so that a tie is drawn."""
    if greedy:
        return ()
    return tuple(
        Probe("top-k 3 with tied tokens", prompts(20 + n, 4, 4, 4, 4), 2, Settings(1.0, 3), seed=30 + n, tied=True)
        for n in range(ROUNDS)
    )


def without_cache(probe: Probe) -> Probe:
    """The same call, with use_cache=False."""
    return replace(probe, title=f"{probe.title}, use_cache=False", cached=False)
