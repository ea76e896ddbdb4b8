"""What makes a model's output random or dependent on earlier calls: active dropout, random numbers, kept state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.candidate.recorder import only_python, submodules_named, tensors_in
from bench.user_code.refused import innermost_own_frame

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
RANDOM = {"bernoulli", "bernoulli_", "rand", "rand_like", "randn", "randn_like", "normal", "multinomial", "randint"}


class Dropouts(TorchFunctionMode):
    """Notes each active dropout and each use of random numbers; without dropout if `off`."""

    def __init__(self, off: bool = False) -> None:
        super().__init__()
        self.off = off
        self.dropped = 0.0  # numbers that dropout sets to zero, on average
        self.random = False  # whether it uses random numbers beside dropout
        self.places: list[str] = []
        self.within: list[str] = [""]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in DROPOUTS:
            given = {**dict(zip(("input", "p", "training"), args, strict=False)), **named}
            if given.get("p", 0.5) and given.get("training", named.get("train", True)):
                self.note("dropout")
                self.dropped += given.get("p", 0.5) * given["input"].numel()
                if self.off:
                    return given["input"]
        elif func is F.scaled_dot_product_attention:
            rate = named.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if rate:
                self.note("scaled_dot_product_attention's dropout")
                q, k = ({**dict(zip(("query", "key"), args, strict=False)), **named}[n] for n in ("query", "key"))
                self.dropped += rate * q.numel() / q.shape[-1] * k.shape[-2]
                if self.off:
                    args, named = args[:4], {**named, "dropout_p": 0.0}
                    named |= {"is_causal": named.get("is_causal", args[5])} if len(args) > 5 else {}
        elif getattr(func, "__name__", "") in RANDOM:
            self.note(f"torch.{func.__name__.strip('_')}")
            self.random = True
        return func(*args, **named)

    def note(self, what: str) -> None:
        """Keep the place of an active dropout."""
        place = innermost_own_frame()
        module = self.within[-1] or "the model itself"
        self.places.append(f"{what} in {module}" + (f" ({place})" if place else ""))


def dropouts_in(module: nn.Module, call: Callable[[], Any]) -> Dropouts:
    """Active dropout, and random numbers, in a call of a module in its present mode."""
    watch = Dropouts()
    with ExitStack() as stack:
        for block in (only_python(), submodules_named(module, watch.within), watch):
            stack.enter_context(block)
        call()
    return watch


def active_dropouts(module: nn.Module, call: Callable[[], Any]) -> list[str]:
    """Places of active dropout, and of random numbers, in a call of a module in its present mode."""
    return list(dict.fromkeys(dropouts_in(module, call).places))


def others(places: list[str]) -> str:
    """The number of further places."""
    return f" and in {len(places) - 1} more" if len(places) > 1 else ""


def changes_between_calls(module: nn.Module, call: Callable[[], Any], other: Callable[[], Any]) -> str:
    """What makes the output of a module change between two calls, in words; `other` is a call with other ids."""
    places = active_dropouts(module, call)
    if places:
        return f"by {places[0]}{others(places)}, which ignores self.training"
    before = state_of(module)
    other()
    changed = [name for name, value in state_of(module).items() if name not in before or value != before[name]]
    if changed:
        return f"by what it keeps in {', '.join(changed[:3])}" + (f" and {len(changed) - 3} more" * (len(changed) > 3))
    return "look for dropout that ignores self.training, a cache kept between calls, or random numbers"


def state_of(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers of all submodules, in a form that can be compared."""
    found = {}
    for name, part in module.named_modules():
        for own, value in (*part.named_buffers(recurse=False), *vars(part).items()):
            tensors = list(tensors_in(value if not isinstance(value, dict) else list(value.values())))
            if tensors or isinstance(value, int | float):
                sums = [(tuple(t.shape), float(t.detach().double().sum())) for t in tensors]
                found[f"{name}.{own}" if name else own] = sums or value
    return found
