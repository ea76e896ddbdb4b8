"""How a candidate is called, and where its logits and its loss are in what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from bench.user_code.refused import Refused

# names of an argument for targets; not transformers' `labels`, which are shifted inside
TARGETS = ("targets", "target", "y", "yb")

Shape = tuple[int, int, int]  # B, T, V


def targets_argument(module: nn.Module) -> str | None:
    """The name of forward's argument for targets; None if it has none."""
    try:
        names = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in TARGETS if name in names), None)


def outputs_in(found: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in a call's result, each with its name; "" if it has none."""
    if hasattr(found, "__dict__") and not isinstance(found, Tensor | Mapping):
        # `.logits` may be a property
        found = {**vars(found), **({"logits": found.logits} if hasattr(found, "logits") else {})}
    yield from named_tensors(found, "")


def named_tensors(found: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(found, Tensor):
        yield name, found
    elif isinstance(found, tuple) and hasattr(found, "_asdict"):
        yield from named_tensors(found._asdict(), name)
    elif isinstance(found, Mapping):
        for own, value in found.items():
            yield from named_tensors(value, str(own))
    elif isinstance(found, tuple | list):
        for value in found:
            yield from named_tensors(value, name)


def logits_in(found: Any, shape: Shape) -> Tensor | None:
    """The logits (B, T, V) in a call's result: the tensor of this shape, the one named `logits` if there are several.

    Flattened logits, (B T, V), become (B, T, V). None if there is no such tensor.
    """
    B, T, V = shape
    tensors = sorted(outputs_in(found), key=lambda pair: pair[0] != "logits")
    for wanted in (shape, (B * T, V)):
        for _, tensor in tensors:
            if tuple(tensor.shape) == wanted:
                return tensor if wanted == shape else tensor.reshape(shape)
    return None


def logits_of(found: Any, shape: Shape) -> Tensor:
    """The logits in a call's result; if none has the right shape, the tensor that should be them.

    Raises `Refused` if the result has no tensor.
    """
    logits = logits_in(found, shape)
    if logits is not None:
        return logits
    tensors = sorted(outputs_in(found), key=lambda pair: (pair[0] != "logits", pair[1].dim() == 0))
    if tensors:
        return tensors[0][1]
    raise Refused(
        f"candidate: its call returned {type(found).__name__}: return logits, (logits, loss), or an object with .logits"
    )


def loss_in(found: Any) -> Tensor | None:
    """The loss in a call's result: the scalar named so, else the first scalar; None if there is none."""
    scalars = [(name, t) for name, t in outputs_in(found) if t.dim() == 0 and t.is_floating_point()]
    named = [tensor for name, tensor in scalars if name == "loss"]
    return named[0] if named else scalars[0][1] if scalars else None


def marked(targets: Tensor, ignored: int | None) -> Tensor:
    """Targets whose ignored ones, -1, have the candidate's number for them."""
    return targets if ignored in (None, -1) else targets.masked_fill(targets == -1, ignored)
