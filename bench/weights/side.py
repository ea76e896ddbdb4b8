"""One side of a comparison: a checkpoint's tensors as ours, each made when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.weights.entities import config_of_shapes
from bench.weights.names import is_mask
from bench.weights.read_weights import WeightsFile
from bench.weights.recognise import HEAD, Recognised, recognise
from bench.weights.rules import Rule, canonical_tensor
from reference.checkpoints.huggingface import canonical_shapes, config_from_hf
from reference.config import GPTConfig

HEADS = ("n_head", "num_attention_heads", "num_heads", "n_heads")  # names of n_head in configs


@dataclass
class Side:
    """A checkpoint, recognised.

    Args:
        letter: A or B
        heads_known: whether the checkpoint says its number of heads
        unlike: why its config is not GPT-2's function; None if it is, or if there is no config
    """

    letter: str
    file: WeightsFile
    config: GPTConfig
    layout: Recognised
    heads_known: bool
    unlike: str | None = None
    sources: dict[str, tuple[Rule, int]] = field(default_factory=dict)  # by our name
    head: Rule | None = None  # an output table that is not the token table's own memory

    def __post_init__(self) -> None:
        self.read_as(self.layout.rules)

    def read_as(self, rules: list[Rule]) -> None:
        """Read the tensors by other rules."""
        self.layout.rules, self.sources = rules, {}
        for rule in rules:
            for i in range(self.config.n_layer if "{i}" in rule.own else 1):
                if any(own not in self.file.tensors for own in self.own_names(rule, i)):
                    continue  # a layer that lacks it
                for ours in rule.ours:
                    self.sources.setdefault(ours.format(i=i), (rule, i))
        tables = [rule for rule in rules if rule.ours == ("wte.weight",)]
        token = next((rule for rule in tables if self.sources.get("wte.weight", (None, 0))[0] == rule), None)
        self.head = next((rule for rule in tables if rule is not token), None)

    def own_names(self, rule: Rule, i: int) -> list[str]:
        """The names of a rule's tensors in a layer: one, or one for each head."""
        heads = range(self.config.n_head) if rule.per_head else range(1)
        return [rule.own.format(i=i, h=h) for h in heads]

    @property
    def names(self) -> list[str]:
        """Our names that it has, in our order; its head last, if that is a table of its own."""
        known = [n for n in canonical_shapes(replace(self.config, bias=True)) if n in self.sources]
        return [*known, HEAD] if self.untied else known

    @property
    def untied(self) -> bool:
        """Whether its head has other numbers than its token table."""
        if self.head is None or "wte.weight" not in self.sources:
            return False
        head, token = self.file.tensors[self.head.own], self.file.tensors[self.sources["wte.weight"][0].own]
        if head.data_ptr() == token.data_ptr() and head.shape == token.shape:
            return False
        return not torch.equal(self.tensor(HEAD), self.tensor("wte.weight"))

    def own_name(self, name: str) -> str:
        """Its name for one of ours, with * for the head."""
        if name == HEAD and self.head is not None:
            return self.head.own
        if name not in self.sources:
            return "-"
        rule, i = self.sources[name]
        return rule.own.replace("{i}", str(i)).replace("{h}", "*")

    def tensor(self, name: str) -> Tensor:
        """One of our tensors."""
        if name == HEAD:
            assert self.head is not None
            return canonical_tensor(self.head, "wte.weight", self.file.tensors, self.config, 0)
        rule, i = self.sources[name]
        ours = next(one for one in rule.ours if one.format(i=i) == name)
        return canonical_tensor(rule, ours, self.file.tensors, self.config, i)

    @property
    def missing(self) -> list[str]:
        """Our tensors that it lacks, without biases: an absent bias is zero."""
        wanted = canonical_shapes(replace(self.config, bias=True))
        return [name for name in wanted if name not in self.sources and not name.endswith("bias")]

    @property
    def unknown(self) -> list[str]:
        """Its tensors that have no place in a GPT-2."""
        placed = {
            own for rule in self.layout.rules for i in range(self.config.n_layer) for own in self.own_names(rule, i)
        }
        return [name for name in self.file.tensors if name not in placed and name in self.kept]

    @property
    def kept(self) -> set[str]:
        """Its tensors that are no constants such as masks."""
        return weights_of(self.file.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The type of its token table, or of its first tensor."""
        rule = self.sources.get("wte.weight")
        return self.file.tensors[rule[0].own].dtype if rule else next(iter(self.file.tensors.values())).dtype


def weights_of(tensors: dict[str, Tensor]) -> set[str]:
    """The names of tensors that are no constants."""
    return {name for name, tensor in tensors.items() if not is_mask(name, tuple(tensor.shape))}


def side_of(file: WeightsFile, letter: str, option: str, n_head: int | None) -> Side:
    """Recognise a checkpoint. Raises ValueError, one line, if it is no GPT-2."""
    shapes = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
    known = n_head or next((file.settings[key] for key in HEADS if isinstance(file.settings.get(key), int)), None)
    try:
        config = config_of_shapes(shapes, n_head=known)
    except ValueError as error:
        raise ValueError(f"{option} {file.name}: {error}") from error
    layout = recognise(shapes, config)
    heads_known = known is not None or any(rule.per_head for rule in layout.rules)
    return Side(letter, file, config, layout, heads_known, unlike(file.settings, config))


def unlike(settings: dict[str, Any], config: GPTConfig) -> str | None:
    """Why a config.json describes another function than GPT-2's; None if it does not, or is none."""
    if "model_type" not in settings:
        return None
    sizes = {"n_positions": config.block_size, "vocab_size": config.vocab_size, "n_layer": config.n_layer}
    sizes |= {"n_head": config.n_head, "n_embd": config.n_embd}
    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    tied = {"tie_word_embeddings": True}  # judged by the tensors
    try:
        config_from_hf({**settings, **sizes, **rates, **tied})
    except ValueError as error:
        return str(error).removeprefix("Hugging Face config: ")
    return None
