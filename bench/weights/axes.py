"""Name the axes of a tensor, and move it from one arrangement to another.

An arrangement is written as a string: "(s h d) c" is a matrix whose rows run over q, k and v (s), then heads (h), then
the width of a head (d), and whose columns run over the stream (c). The letters:

    v vocabulary   t block   c width of the stream   f width of the MLP, 4 c   h heads   d width of a head
    s q, k and v   1 an axis of one
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from reference.config import GPTConfig

Sizes = Mapping[str, int]


def sizes_of(config: GPTConfig) -> dict[str, int]:
    """The size of each axis."""
    C, H = config.n_embd, config.n_head
    return {
        "v": config.vocab_size,
        "t": config.block_size,
        "c": C,
        "f": 4 * C,
        "h": H,
        "d": C // H,
        "s": 3,
        "1": 1,
    }


def groups(axes: str) -> list[list[str]]:
    """The letters of each dimension.

    >>> groups("(s h d) c")
    [['s', 'h', 'd'], ['c']]
    """
    return [(joined or one).split() for joined, one in re.findall(r"\(([^)]*)\)|(\S+)", axes)]


def letters(axes: str) -> list[str]:
    """All letters in order, without axes of one."""
    return [letter for group in groups(axes) for letter in group if letter != "1"]


def shape_of(axes: str, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an arrangement."""
    return tuple(math.prod(sizes[letter] for letter in group) for group in groups(axes))


def rearrange(tensor: Tensor, before: str, after: str, sizes: Sizes) -> Tensor:
    """Move a tensor from one arrangement to another with the same letters, by torch operations."""
    if before == after:
        return tensor
    old, new = letters(before), letters(after)
    opened = tensor.reshape([sizes[letter] for letter in old])
    return opened.permute([old.index(letter) for letter in new]).reshape(shape_of(after, sizes))
