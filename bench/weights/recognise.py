"""Recognise the layout of a GPT-2 from the names, shapes and order of its tensors.

Shapes say most: 3 C x C is q, k and v in one, 4 C x C an MLP layer, C x 4 C one in the other orientation. Words of the
names decide between tensors of one shape, and the order of the tensors where the words do not. What neither shape nor
words decide (the orientation of square matrices, the order of q, k and v in one tensor) are alternatives, to be decided
by the numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.weights.axes import shape_of, sizes_of
from bench.weights.entities import Entity, Shapes, any_name, any_shape, entities_of, tables_of, templates_of
from bench.weights.names import KIND, Shape, letter_of, letters_within, words_of
from bench.weights.rules import OURS, Rule
from reference.checkpoints.huggingface import PREFIX
from reference.config import GPTConfig

HEAD = "lm_head.weight"  # our name for an output table that is not the token table

UP = {"fc", "up", "in", "w1", "expand", "intermediate", "0"}
DOWN = {"proj", "down", "out", "w2", "contract", "2"}
FIRST = {"1", "input", "attn", "attention", "att", "first", "pre", "self", "a"}
SECOND = {"2", "post", "mlp", "ffn", "ff", "ffwd", "second", "final", "b"}

EXCHANGE = str.maketrans("12", "21")  # ln_1 and ln_2
PER_HEAD = ("query_key_value", "linear_qkv")  # names of GPT-NeoX and Megatron, which join q, k and v of each head

# Arrangements of each kind of tensor, the usual one first.
ORDERS = ("s h d", "h s d", "h d s")  # of q, k and v in one tensor: one after the other; per head; last
MATRICES = {
    "wte": ("v c", "c v"),
    "wpe": ("t c", "1 t c"),
    "qkv": (
        *(f"({order}) c" for order in ORDERS),
        *(f"c ({order})" for order in ORDERS),
        *("s (h d) c", "s c (h d)", "s h d c", "s h c d"),
    ),
    "q": ("(h d) c", "c (h d)", "h d c", "h c d"),
    "o": ("c (h d)", "(h d) c", "h d c", "h c d"),
    "up": ("f c", "c f"),
    "down": ("c f", "f c"),
}
VECTORS = {
    "qkv": (*(f"({order})" for order in ORDERS), "s (h d)", "s h d"),
    "q": ("(h d)", "h d"),
    "o": ("c",),
    "up": ("f",),
    "down": ("c",),
}
NAMES = {"wte": "wte", "wpe": "wpe", "o": "h.{i}.attn.c_proj", "up": "h.{i}.mlp.c_fc", "down": "h.{i}.mlp.c_proj"}


@dataclass
class Recognised:
    """The layout of some tensors.

    Args:
        rules: one for each recognised tensor
        alternatives: other rules that the shapes allow as well
        scheme: canonical, hf or nanogpt if the names are those; else None
        unknown: names (of all layers as one) that no rule has
        missing: ours that no rule has, without biases
    """

    rules: list[Rule]
    alternatives: list[list[Rule]] = field(default_factory=list)
    scheme: str | None = None
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def description(self) -> str:
        """The layout in words."""
        return self.scheme or describe(self.rules)


def recognise(shapes: Shapes, config: GPTConfig) -> Recognised:
    """Recognise the layout of some tensors, names without wrappers, of a config.

    Never raises: names that it cannot place are `unknown`, ours that it cannot find are `missing`.
    """
    templates, layers, _ = templates_of(shapes)
    entities = entities_of(templates)
    sizes = sizes_of(config)
    found = Rules(sizes)
    if layers == config.n_layer or (config.n_layer == 1 and layers == 0):
        found.tables(tables_of(entities, config.n_embd))
        found.layers([e for e in entities if "{i}" in any_name(e)])
        found.last_norm([e for e in entities if "{i}" not in any_name(e) and any_shape(e) == (config.n_embd,)])
    rules = found.chosen({})
    placed = {rule.own for rule in rules}
    covered = {name for rule in rules for name in rule.ours}
    missing = [name for name in OURS if name not in covered and not name.endswith("bias")]
    alternatives = [found.chosen(choice) for choice in found.choices()]
    unknown = [name for name in templates if name not in placed]
    seen: list[list[Rule]] = [rules]
    for other in alternatives:
        if other not in seen:
            seen.append(other)
    return Recognised(rules, seen[1:], scheme_of(rules, unknown), unknown, missing)


class Rules:
    """Collects rules; a tensor whose arrangement is not certain keeps all that fit its shape."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.open: list[tuple[Rule, list[str], str]] = []  # rule, arrangements that fit, kind
        self.norms_tied = False  # whether no word tells the two norms of a block apart

    def add(
        self, place: tuple[str, Shape] | None, ours: tuple[str, ...], kind: str, arrangements: Iterable[str]
    ) -> None:
        """Add a rule if an arrangement fits."""
        if place is None:
            return
        name, shape = place
        if "{h}" in name:
            fit = [axes for axes in ("d c", "c d", "d") if shape_of(axes, self.sizes) == shape]
        else:
            fit = [axes for axes in arrangements if shape_of(axes, self.sizes) == shape]
        if fit:
            self.open.append((Rule(name, ours, fit[0]), fit, kind))

    def whole(self, entity: Entity, role: str, names: tuple[str, ...], kind: str | None = None) -> None:
        """Add a weight and its bias."""
        kind = kind or role
        self.add(entity.weight, tuple(f"{n}.weight" for n in names), kind, MATRICES[kind])
        self.add(entity.bias, tuple(f"{n}.bias" for n in names), kind, VECTORS.get(kind, ()))

    def tables(self, found: Mapping[str, Entity]) -> None:
        """Token table, position table, head."""
        for role in ("wte", "wpe"):
            if role in found:
                self.whole(found[role], role, (role,))
        if "head" in found:
            head = found["head"]
            self.add(head.weight, ("wte.weight",), "wte", MATRICES["wte"])
            self.add(head.bias, (), "zeros", ("v",))  # GPT-2's head has none

    def layers(self, entities: Sequence[Entity]) -> None:
        """The tensors of a layer."""
        C, D = self.sizes["c"], self.sizes["d"]
        matrices = [e for e in entities if e.weight is not None and len(e.weight[1]) > 1]
        norms = [e for e in entities if any_shape(e) == (C,)]
        count = {id(e): math.prod(e.weight[1]) for e in matrices if e.weight is not None}
        one = {C * C, D * C}
        for entity in matrices:
            if count[id(entity)] == 3 * C * C:
                self.whole(entity, "qkv", tuple(f"h.{{i}}.attn.{letter}_proj" for letter in "qkv"))
        self.mlp([e for e in matrices if count[id(e)] == 4 * C * C])
        self.squares([e for e in matrices if count[id(e)] in one and (count[id(e)] == C * C or "{h}" in any_name(e))])
        self.norms(norms)

    def mlp(self, pair: Sequence[Entity]) -> None:
        """The two layers of the MLP: by their biases, else by their words, else by their order."""
        if len(pair) != 2:
            return
        up, down = pair
        sized = [e.bias[1][0] if e.bias is not None else None for e in pair]
        if self.sizes["f"] in sized:
            if sized[1] == self.sizes["f"]:
                up, down = down, up
        elif score(down, UP, DOWN) > score(up, UP, DOWN):
            up, down = down, up
        self.whole(up, "up", (NAMES["up"],))
        self.whole(down, "down", (NAMES["down"],))

    def squares(self, entities: Sequence[Entity]) -> None:
        """q, k, v and the output projection: by their words, else by their order."""
        fused = any(kind == "qkv" for _, _, kind in self.open)
        named: dict[str, Entity] = {}
        rest = []
        for entity in entities:
            letter = letter_of(last_words(entity))
            if letter is not None and letter not in named and not fused:
                named[letter] = entity
            else:
                rest.append(entity)
        if not fused and not named and len(rest) == 4:
            named, rest = dict(zip("qkv", rest[:3], strict=True)), rest[3:]
        for letter, entity in named.items():
            self.whole(entity, "q", (f"h.{{i}}.attn.{letter}_proj",))
        if len(rest) == 1:
            self.whole(rest[0], "o", (NAMES["o"],))

    def norms(self, pair: Sequence[Entity]) -> None:
        """The two norms of a block: by their words, else by their order."""
        if len(pair) != 2:
            return
        first, second = pair
        words = [named_words(entity) for entity in pair]
        plus, minus = (known - (words[0] & words[1]) for known in (FIRST, SECOND))
        scores = [len(own & plus) - len(own & minus) for own in words]
        self.norms_tied = scores[0] == scores[1]
        if scores[1] > scores[0]:
            first, second = second, first
        for entity, name in ((first, "h.{i}.ln_1"), (second, "h.{i}.ln_2")):
            self.add(entity.weight, (f"{name}.weight",), "norm", ("c",))
            self.add(entity.bias, (f"{name}.bias",), "norm", ("c",))

    def last_norm(self, entities: Sequence[Entity]) -> None:
        """The norm after the last block."""
        if len(entities) == 1:
            self.add(entities[0].weight, ("ln_f.weight",), "norm", ("c",))
            self.add(entities[0].bias, ("ln_f.bias",), "norm", ("c",))

    def choices(self) -> Iterator[dict[str, str]]:
        """All combinations of what the shapes leave open, the usual one first."""
        for exchange in ("", "yes") if self.norms_tied else ("",):
            for order in ORDERS:
                for turn in ("", "yes"):
                    yield {"order": order, "turn": turn, "exchange": exchange}

    def chosen(self, choice: Mapping[str, str]) -> list[Rule]:
        """The rules under a choice; square matrices lie as the MLP's first layer does, or the other way round."""
        conv1d = any(kind == "up" and rule.axes == "c f" for rule, _, kind in self.open)
        turned = conv1d != bool(choice.get("turn"))
        order = choice.get("order")
        out = []
        for rule, fit, kind in self.open:
            axes = rule.axes
            if len(fit) > 1 and kind in ("q", "o") and not rule.axes.startswith("h "):
                straight = MATRICES[kind][0] if not rule.per_head else "d c"
                fitting = [one for one in fit if (one == straight) != turned]
                axes = fitting[0] if fitting else axes
            if kind == "qkv" and (order is not None or any(name in rule.own for name in PER_HEAD)):
                wanted = f"({order or 'h s d'})"
                fitting = [one for one in fit if wanted in one]
                axes = fitting[0] if fitting else axes
            ours = rule.ours
            if kind == "norm" and choice.get("exchange"):
                ours = tuple(name.translate(EXCHANGE) if "{i}" in name else name for name in ours)
            out.append(replace(rule, axes=axes, ours=ours))
        return out


def last_words(entity: Entity) -> set[str]:
    """The words of an entity from its last two segments: "h.attn.k.weight" names k, "kind.h.q" does not."""
    name = re.sub(r"\{.\}", "", any_name(entity))
    segments = name.split(".")
    return words_of(".".join(segments[-2:])) - (KIND - {"a"}) | letters_within(name) & {"q", "k", "v"}


def named_words(entity: Entity) -> set[str]:
    """The words of an entity, without numbers that are a place in a list: "layers.1.norm2" says 2, not 1."""
    places = {segment for segment in any_name(entity).split(".") if segment.isdigit()}
    inside = words_of(".".join(s for s in re.sub(r"\{.\}", "", any_name(entity)).split(".") if not s.isdigit()))
    return ((last_words(entity) | entity.words) - places) | (inside - (KIND - {"a", "b"}))


def score(entity: Entity, plus: set[str], minus: set[str]) -> int:
    """Words for, minus words against."""
    words = last_words(entity) | entity.words
    return len(words & plus) - len(words & minus)


def scheme_of(rules: Sequence[Rule], unknown: Sequence[str]) -> str | None:
    """canonical, hf or nanogpt, if the names and arrangements are those."""
    names = {rule.own.removeprefix(PREFIX) for rule in rules}
    if unknown or any("{h}" in name for name in names):
        return None
    canonical = {*OURS, HEAD}
    if (
        names <= canonical
        and "h.{i}.attn.q_proj.weight" in names
        and all(rule.axes == OURS[rule.ours[0]] for rule in rules)
    ):
        return "canonical" if not any(rule.own.startswith(PREFIX) for rule in rules) else None
    fused = {name.replace("q_proj", "c_attn") for name in canonical if "k_proj" not in name and "v_proj" not in name}
    if names <= fused and "h.{i}.attn.c_attn.weight" in names:
        return "hf" if any(rule.axes == "c f" for rule in rules if "c_fc" in rule.own) else "nanogpt"
    return None


def describe(rules: Sequence[Rule]) -> str:
    """The arrangement of some rules in words: "q, k and v joined, (out, in)"."""
    axes = {rule.ours: rule.axes for rule in rules}
    joined = next((rule.axes for rule in rules if len(rule.ours) == 3 and "c" in rule.axes), None)
    if joined is not None:
        ways = {"s h d": "joined", "h s d": "joined per head (interleaved)", "h d s": "interleaved"}
        how = next((words for order, words in ways.items() if f"({order})" in joined), "stacked")
    else:
        heads = any(rule.per_head or rule.axes.startswith("h ") for rule in rules)
        how = "per head" if heads else "apart"
    conv1d = axes.get(("h.{i}.mlp.c_fc.weight",)) == "c f"
    return f"q, k and v {how}, matrices as {'(in, out)' if conv1d else '(out, in)'}"
