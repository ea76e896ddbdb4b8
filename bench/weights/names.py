"""Words, layers and heads in the names of a model's tensors."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

Shape = tuple[int, ...]

WRAPPERS = ("_orig_mod.", "module.")  # put before names by torch.compile and DistributedDataParallel
BIAS = {"bias", "b", "beta", "shift"}
KIND = BIAS | {"weight", "w", "gamma", "scale", "gain", "g", "kernel", "weights", "a"}
LETTERS = {
    "q": {"q", "query", "queries", "wq", "qproj"},
    "k": {"k", "key", "keys", "wk", "kproj"},
    "v": {"v", "value", "values", "wv", "vproj"},
}


def plain(name: str) -> str:
    """A name without what torch.compile and DistributedDataParallel put before it."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod.", ".")


def is_mask(name: str, shape: Shape) -> bool:
    """Whether this is a causal mask or another constant, not a weight."""
    real = [n for n in shape if n != 1]
    words = words_of(name.rsplit(".", 1)[-1])
    square = len(real) == 2 and real[0] == real[1]
    named = bool(words & {"mask", "tril", "causal"}) or (len(shape) > 2 and "bias" in words)
    return not real or (square and (named or len(shape) > 3)) or "inv_freq" in name


def words_of(name: str) -> set[str]:
    """The words of a name in lower case: "blocks.attn.W_Q" -> blocks, attn, w, q."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)} | {
        segment.lower() for segment in re.split(r"[._]", name) if re.fullmatch(r"[A-Za-z]+\d", segment)
    }


def layers_of(names: Iterable[str]) -> tuple[dict[str, str], int]:
    """Write {i} for the number of the layer in every name; returns the names by name, and the number of layers."""
    names = list(names)
    spots: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        for before, number, after in numbers_in(name):
            spots[before][number].add(after)
    complete = {
        prefix: len(numbers)
        for prefix, numbers in spots.items()
        if set(numbers) == set(range(len(numbers))) and set.intersection(*numbers.values())
    }
    covered: Counter[int] = Counter()
    for name in names:
        first = next((before for before, _, _ in numbers_in(name) if before in complete), None)
        if first is not None:
            covered[complete[first]] += 1
    layers = covered.most_common(1)[0][0] if covered else 0
    out = {}
    for name in names:
        out[name] = name
        for before, _, after in numbers_in(name):
            if complete.get(before) == layers:
                out[name] = f"{before}{{i}}{after}"
                break
    return out, layers


def numbers_in(name: str) -> Iterator[tuple[str, int, str]]:
    """The numbers of a name with what is before and after; of 10 also the 0, as a name may end in 1 before it."""
    for match in re.finditer(r"\d+", name):
        for start in range(match.start(), match.end()):
            yield name[:start], int(name[start : match.end()]), name[match.end() :]


def heads_of(names: Iterable[str]) -> dict[str, str]:
    """Write {h} for the number of the head in names of q, k and v, where each head has its own."""
    spots: dict[tuple[str, str], set[int]] = defaultdict(set)
    names = list(names)
    for name in names:
        for match in re.finditer(r"\d+", name):
            spots[name[: match.start()], name[match.end() :]].add(int(match.group()))
    out = {}
    for name in names:
        out[name] = name
        for match in re.finditer(r"\d+", name):
            numbers = spots[name[: match.start()], name[match.end() :]]
            if letter_of(words_of(name)) and numbers == set(range(len(numbers))) and "{i}" in name[: match.start()]:
                out[name] = f"{name[: match.start()]}{{h}}{name[match.end() :]}"
                break
    return out


def letter_of(words: set[str]) -> str | None:
    """q, k or v, if the words name one of them and no other."""
    found = [letter for letter, known in LETTERS.items() if words & known]
    return found[0] if len(found) == 1 else None


def letters_within(name: str) -> set[str]:
    """The single letters of a name's last two segments, such as v in W_V, that are words of their own."""
    return {word.lower() for word in re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", ".".join(name.split(".")[-2:]))}
