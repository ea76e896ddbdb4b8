"""Call a user's generator by the names of its arguments, and read what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.text_generation.model import CONFIG, UserGPT
from bench.text_generation.probes import Probe
from bench.user_code.refused import Refused, called

OTHER_SEED = 1_000_003  # added to the seed of torch's global generator if the function is given one of its own
NEARLY_ZERO = 1e-6  # temperature in place of 0 for a function that divides by it
PAD = 0

# our word: the names that functions give the argument
NAMES = {
    "new": (
        *("max_new_tokens", "new_tokens", "num_new_tokens", "n_new_tokens", "num_tokens", "n_tokens", "max_tokens"),
        *("tokens_to_generate", "steps", "max_steps", "n_steps", "n_new", "n", "num"),
    ),
    "total": ("max_length", "max_len", "total_length", "total_len", "max_total_tokens"),
    "temperature": ("temperature", "temp", "tau"),
    "top_k": ("top_k", "topk", "k"),
    "top_p": ("top_p", "topp", "p", "nucleus", "nucleus_p"),
    "generator": ("generator", "gen", "rng"),
    "do_sample": ("do_sample", "sample", "sampling"),
    "greedy": ("greedy",),
    "use_cache": ("use_cache", "cache", "kv_cache", "use_kv_cache", "cached"),
    "padding": ("padding", "paddings", "pad_lengths", "n_padding", "left_padding"),
    "attention_mask": ("attention_mask", "mask", "padding_mask"),
    "lengths": ("lengths", "prompt_lengths", "prompt_lens", "lens"),
    "pad": ("pad", "pad_id", "pad_token", "pad_token_id"),
    "eos": ("eos", "eos_id", "eos_token", "eos_token_id", "stop", "stop_id", "stop_token", "end_token"),
    "block": ("block_size", "context_size", "context_length", "ctx_len", "n_ctx", "max_seq_len", "seq_len"),
    "vocabulary": ("vocab_size", "n_vocab"),
    "device": ("device",),
}
OURS = {name: ours for ours, names in NAMES.items() for name in names}
IN_ORDER = ("new", "temperature", "top_k", "generator")  # of arguments with other names
LISTS = ("prompts", "texts", "sequences", "batch")  # names of a second argument that is a list of lists
PADDINGS = ("padding", "attention_mask", "lengths", "pad")


@dataclass
class Function:
    """A user's function, and how it is called."""

    call: Callable[..., Any]
    names: dict[str, str]  # our word -> the name of its argument
    defaults: dict[str, Any] = field(default_factory=dict)  # our word -> its default
    lists: bool = False  # prompts are a list of lists of ids
    positional: bool = False  # without a signature: called as generate(model, ids, new, temperature, top_k, generator)
    left_out: list[str] = field(default_factory=list)  # optional arguments that are unknown
    nearly_zero: bool = False  # it cannot take temperature 0
    changes_prompt: bool = False  # it writes into the ids that it is given
    new_only: bool | None = None  # whether it returns the new tokens without the prompt

    def takes(self, *words: str) -> bool:
        """Whether it has all these arguments."""
        return all(word in self.names for word in words)

    @property
    def takes_padding(self) -> bool:
        """Whether it can be given prompts of unequal length."""
        return self.lists or any(self.takes(word) for word in PADDINGS)

    @property
    def can_be_greedy(self) -> bool:
        """Whether greedy text can be asked for."""
        return any(self.takes(word) for word in ("temperature", "do_sample", "greedy", "top_k"))

    def keywords(self, probe: Probe, generator: torch.Generator, width: int) -> dict[str, Any]:
        """The arguments after model and ids, by the names of the function."""
        settings = probe.settings
        # with a switch of its own, greedy needs no temperature
        switched = self.takes("do_sample") or self.takes("greedy")
        temperature = settings.temperature or (1.0 if switched else NEARLY_ZERO if self.nearly_zero else 0.0)
        top_k = settings.top_k
        if settings.greedy and not switched and not self.takes("temperature"):
            top_k = 1
        padding = [width - len(prompt) for prompt in probe.prompts]
        real = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        values = {
            "new": probe.new,
            "total": width + probe.new,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": settings.top_p,
            "generator": generator,
            "do_sample": not settings.greedy,
            "greedy": settings.greedy,
            "use_cache": probe.cached is not False,
            "padding": torch.tensor(padding),
            "attention_mask": real,
            "lengths": real.sum(dim=1),
            "pad": PAD,
            "eos": probe.eos,
            "block": CONFIG.block_size,
            "vocabulary": CONFIG.vocab_size,
            "device": torch.device("cpu"),
        }
        if self.takes("new") and "total" in self.names:
            del values["total"]
        every = {"top_k": CONFIG.vocab_size, "top_p": 1.0, "eos": None}  # for a default that does not mean "all"
        found = {}
        for word, value in values.items():
            if word in self.names and (word not in every or value is not None):
                found[self.names[word]] = value
            elif word in self.names and self.defaults.get(word):
                found[self.names[word]] = every[word]
            elif word in self.names and word not in self.defaults:
                found[self.names[word]] = None
        return found


def understand(function: Callable[..., Any]) -> Function:
    """How to call a function. Raises Refused for a required argument that is unknown."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        names = {word: word for word in IN_ORDER}
        return Function(function, names, positional=True)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [p for p in parameters if p.kind not in variable]
    if len(parameters) < 3:
        raise Refused(
            f"generate: {words_of(parameters)}: give a function of model, ids and the number of new tokens at least"
        )
    found = Function(function, {}, lists=parameters[1].name in LISTS)
    unknown = []
    for parameter in parameters[2:]:
        word = OURS.get(parameter.name)
        if word is not None and word not in found.names:
            found.names[word] = parameter.name
            if parameter.default is not parameter.empty:
                found.defaults[word] = parameter.default
        else:
            unknown.append(parameter)
    for parameter in unknown:
        if parameter.default is not parameter.empty:
            found.left_out.append(parameter.name)
            continue
        word = next((word for word in IN_ORDER if word not in found.names), None)
        if word is None or (word == "new" and "total" in found.names):
            raise Refused(f"generate: its argument {parameter.name!r} is unknown: give it a default")
        found.names[word] = parameter.name
    if not (found.takes("new") or found.takes("total")):
        raise Refused("generate: it takes no number of new tokens: name an argument max_new_tokens")
    return found


def words_of(parameters: Sequence[inspect.Parameter]) -> str:
    """A signature in words."""
    names = ", ".join(p.name for p in parameters)
    return f"it takes {names}" if names else "it takes no arguments"


def generated(function: Function, model: UserGPT, probe: Probe) -> list[list[int]]:
    """The new tokens of each row, as a user's function gives them. Raises Refused, one line, if it raises."""
    width = probe.width
    padded = [[PAD] * (width - len(prompt)) + list(prompt) for prompt in probe.prompts]
    ids: Any = [list(prompt) for prompt in probe.prompts] if function.lists else torch.tensor(padded)
    generator = torch.Generator().manual_seed(probe.seed)
    keywords = function.keywords(probe, generator, width)
    with alone(probe.seed + (OTHER_SEED if function.takes("generator") else 0)):
        model.train(probe.train)
        if function.positional:
            found = run(lambda: function.call(model, ids, *keywords.values()), probe.title)
        else:
            found = run(lambda: function.call(model, ids, **keywords), probe.title)
        rows = run(lambda: rows_of(found, len(padded)), f"reading what it returned for {probe.title!r}")
    given = [list(prompt) for prompt in probe.prompts] if function.lists else padded
    function.changes_prompt |= (ids.tolist() if isinstance(ids, Tensor) else ids) != given
    # decided by the first call that can tell: a prompt of one token may be repeated by chance
    if function.new_only is None and width > 1:
        function.new_only = not any(
            row[: len(start)] == start or row[: len(prompt)] == list(prompt)
            for row, start, prompt in zip(rows, given, probe.prompts, strict=True)
        )
    if function.new_only:
        return rows
    return [without(row, start, list(prompt)) for row, start, prompt in zip(rows, given, probe.prompts, strict=True)]


def without(row: list[int], start: list[int], prompt: list[int]) -> list[int]:
    """A row without its prompt, padded or not; the whole row if it begins otherwise."""
    for head in (start, prompt):
        if row[: len(head)] == head:
            return row[len(head) :]
    return row


def run(function: Callable[[], Any], what: str) -> Any:
    """Run a user's code; an exception becomes `Refused`, one line."""
    return called(function, what, "generate")


def rows_of(found: Any, number: int) -> list[list[int]]:
    """What a generator returned as rows of ids: a tensor (B, T), a list of rows, one row, or an iterator of tokens."""
    if isinstance(found, Iterator):
        found = list(found)
        if all(isinstance(one, Tensor) and one.numel() == number for one in found):
            found = torch.stack([one.flatten() for one in found], dim=1) if found else torch.empty(number, 0)
    if isinstance(found, tuple) and found and isinstance(found[0], Tensor | list):
        found = found[0]
    if isinstance(found, Tensor):
        found = found[None] if found.dim() == 1 and number == 1 else found
        if found.dim() == 2 and len(found) == number:
            return [[int(one) for one in row] for row in found.tolist()]
        raise Refused(f"generate: returned a tensor of shape {tuple(found.shape)}: give ids (B, tokens), B is {number}")
    if isinstance(found, list):
        found = [found] if number == 1 and all(isinstance(one, int) for one in found) else found
        if len(found) == number and all(isinstance(row, Tensor | list) for row in found):
            return [[int(one) for one in (row.flatten().tolist() if isinstance(row, Tensor) else row)] for row in found]
        raise Refused(f"generate: returned a list of {len(found)}: give a row of ids for each of {number} prompts")
    raise Refused(f"generate: returned {type(found).__name__}: give ids (B, tokens)")


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """Inside the block torch's global generator has a seed; afterwards it and the gradient mode are as before."""
    gradients = torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_grad_enabled(gradients)
