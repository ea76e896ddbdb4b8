"""Group a model's tensors: weights with their biases, tables, and the config that their shapes tell."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.weights.names import BIAS, KIND, Shape, heads_of, is_mask, layers_of, letters_within, words_of
from reference.config import GPTConfig

Shapes = Mapping[str, Shape]

POSITION = {"wpe", "pos", "position", "positions", "positional", "where"}
OUTPUT = {"head", "unembed", "unembedding", "out", "output", "logits", "decoder", "lm", "classifier"}
TOKEN = {"wte", "tok", "token", "tokens", "word", "vocab"}


@dataclass
class Entity:
    """A weight and its bias: names with {i} and {h}, and shapes."""

    words: set[str]
    weight: tuple[str, Shape] | None = None
    bias: tuple[str, Shape] | None = None


def templates_of(shapes: Shapes) -> tuple[dict[str, Shape], int, int | None]:
    """Tensors with {i} and {h} in their names, in order; the number of layers; that of heads if each has its own."""
    kept = {name: shape for name, shape in shapes.items() if not is_mask(name, shape)}
    layered, layers = layers_of(kept)
    headed = heads_of(dict.fromkeys(layered.values()))
    out: dict[str, Shape] = {}
    for name, shape in kept.items():
        out.setdefault(headed[layered[name]], shape)
    several = Counter(template for one, template in headed.items() if "{h}" in template)
    return out, layers, max(several.values(), default=None)


def entities_of(templates: Mapping[str, Shape]) -> list[Entity]:
    """Weights with their biases, in order."""
    found: dict[str, Entity] = {}
    for name, shape in templates.items():
        parent, _, last = name.rpartition(".")
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last.replace("{i}", "").replace("{h}", ""))
        kinds = {word.lower() for word in words} & KIND
        stem = f"{parent}." + "_".join(word.lower() for word in words if word.lower() not in KIND)
        entity = found.setdefault(stem, Entity(words_of(re.sub(r"\{.\}", "", name)) - KIND | letters_within(name)))
        if kinds & BIAS and not kinds - BIAS:
            entity.bias = name, shape
        else:
            entity.weight = name, shape
    return list(found.values())


def config_of_shapes(shapes: Shapes, n_head: int | None = None) -> GPTConfig:
    """The config of a GPT-2 with these tensors.

    Args:
        n_head: if known; else that of tensors of one head each, or the width divided by 64

    Raises ValueError if there is no token or position table.
    """
    templates, layers, heads = templates_of(shapes)
    vectors = [shape[0] for shape in templates.values() if len(shape) == 1]
    if not vectors or not layers:
        raise ValueError("no GPT-2: it has no numbered layers with norms")
    C = Counter(vectors).most_common(1)[0][0]
    found = tables_of(entities_of(templates), C)
    lengths = {role: table_length(entity, C) for role, entity in found.items()}
    for role, what in (("wte", "token"), ("wpe", "position")):
        if role not in lengths:
            raise ValueError(f"no GPT-2: it has no {what} table with {C} columns")
    H = n_head or heads or (C // 64 if C % 64 == 0 else 1)
    bias = any(name.endswith("bias") or words_of(name.rsplit(".", 1)[-1]) & BIAS for name in templates)
    return GPTConfig(lengths["wpe"], lengths["wte"], layers, H, C, bias=bias)


def table_length(entity: Entity, C: int) -> int:
    """The number of rows of a table with C columns, in either orientation."""
    assert entity.weight is not None
    return math.prod(entity.weight[1]) // C


def tables_of(entities: Sequence[Entity], C: int) -> dict[str, Entity]:
    """Token table, position table and head, by role."""
    rest = [
        entity
        for entity in entities
        if entity.weight is not None
        and "{i}" not in entity.weight[0]
        and len(real := [n for n in entity.weight[1] if n != 1]) == 2
        and C in real
    ]
    found: dict[str, Entity] = {}
    for role, words in (("wpe", POSITION), ("wte", TOKEN), ("head", OUTPUT)):
        for entity in rest:
            if role not in found and entity.words & words:
                found[role] = entity
        rest = [entity for entity in rest if entity is not found.get(role)]
    by_size = sorted(rest, key=lambda entity: -table_length(entity, C))
    for role in ("wte", "wpe") if "wpe" not in found and "wte" not in found else ("wte", "wpe", "head"):
        if role not in found and by_size:
            found[role] = by_size.pop(-1 if role == "wpe" else 0)
    return found


def any_name(entity: Entity) -> str:
    """The name of an entity's weight, or of its bias."""
    return (entity.weight or entity.bias or ("", ()))[0]


def any_shape(entity: Entity) -> Shape:
    """The shape of an entity's weight, or of its bias."""
    return (entity.weight or entity.bias or ("", ()))[1]
