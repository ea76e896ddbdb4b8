"""A candidate with float64 in place of every lower precision that it asks for, to tell its rounding from a difference.

A model with float64 parameters may still compute in float32: a constant made by torch.tensor(0.5), a buffer, a cast. If
the same code in float64 throughout is the reference's function, then all that differs is rounding.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.candidate.adapter import Build, Candidate
from bench.candidate.recorder import only_python, submodules_named, tensors_in
from bench.user_code.refused import innermost_own_frame

LOWER = (torch.float32, torch.float16, torch.bfloat16)
CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class Lift(TorchFunctionMode):
    """Replaces each lower precision that is asked for by float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in CASTS:
            return args[0].double()
        return func(*map(lift, args), **{name: lift(value) for name, value in (kwargs or {}).items()})


def lift(value: Any) -> Any:
    """float64 for a lower floating-point type; anything else as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in LOWER else value


@contextmanager
def lifting() -> Iterator[None]:
    """Inside the block, code that makes or asks for float32, float16 or bfloat16 gets float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Lift():
            yield
    finally:
        torch.set_default_dtype(usual)


def lifted_build(build: Build) -> Build:
    """A build whose models are made in float64; its file is run again if it makes tensors when imported."""
    again = build
    module = sys.modules.get(getattr(build, "__module__", ""))
    constants = [v for v in vars(module).values() if isinstance(v, Tensor) and v.dtype in LOWER] if module else []
    spec = importlib.util.find_spec(module.__name__) if module and constants else None
    if spec is not None and spec.loader is not None:
        with suppress(Exception), lifting():
            second = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(second)
            again = getattr(second, build.__name__)

    def lifted(config: Any) -> Any:
        with lifting():
            return again(config)

    return lifted


@dataclass(frozen=True)
class Lowered:
    """A place where a candidate computes in a lower precision, with another result than in float64."""

    dtype: str
    what: str  # the operation and its module, or the name of a constant
    place: str  # "file, line n"; "" if unknown

    def __str__(self) -> str:
        return f"{self.dtype} in {self.what}" + (f" ({self.place})" if self.place else "")


@dataclass(frozen=True)
class Note:
    """One call of a torch function: what it is, where, and what it gave."""

    operation: str
    module: str
    place: str
    dtype: torch.dtype
    value: Tensor  # a few sums, which tell two results apart


class Notes(TorchFunctionMode):
    """Notes each call of a torch function that gives a floating-point tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Note] = []
        self.within: list[str] = [""]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "operation").strip("_")
        for tensor in tensors_in(found):
            if tensor.is_floating_point():
                place = innermost_own_frame() if tensor.dtype in LOWER else ""
                self.kept.append(Note(name, self.within[-1], place, tensor.dtype, sums(tensor)))
        return found


def sums(tensor: Tensor) -> Tensor:
    """Two sums of a tensor's values in float64, with infinities as large numbers."""
    values = tensor.detach().double().nan_to_num(nan=1.5, posinf=2.5, neginf=-3.5).flatten()
    return torch.stack([values.sum(), (values * values).sum()]).cpu()


def lowered(candidate: Candidate, lifted: Candidate, ids: Tensor) -> list[Lowered]:
    """Where a candidate with float64 parameters computes with fewer bits, so that its results are others.

    Args:
        candidate, lifted: as it is, and in float64 throughout; it may raise as it is
    """
    own, right = (notes_of(model, ids) for model in (candidate, lifted))
    found = [
        Lowered(name_of(a.dtype), f"{a.module or 'the model itself'}, {a.operation}", a.place)
        for a, b in zip(own, right, strict=False)
        if a.dtype in LOWER and not torch.equal(a.value, b.value)
    ]
    constants = tensors_of(lifted.module)
    for name, tensor in tensors_of(candidate.module).items():
        other = constants.get(name)
        if other is not None and other.shape == tensor.shape and not torch.equal(sums(tensor), sums(other)):
            found.append(Lowered("float32", f"the constant {name}", ""))
    return found


def notes_of(candidate: Candidate, ids: Tensor) -> list[Note]:
    """The notes of a forward pass, up to the point where it fails."""
    notes = Notes()
    device = next(candidate.parameters()).device
    with ExitStack() as stack:
        for block in (torch.no_grad(), only_python(), submodules_named(candidate.module, notes.within), notes):
            stack.enter_context(block)
        with suppress(Exception):
            candidate(ids.to(device))
    return notes.kept


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Floating-point tensors that a module keeps beside its parameters: buffers and attributes."""
    found = {}
    for name, part in module.named_modules():
        for own, value in (*part.named_buffers(recurse=False), *vars(part).items()):
            if isinstance(value, Tensor) and value.is_floating_point() and not isinstance(value, nn.Parameter):
                found[f"{name}.{own}" if name else own] = value
    return found


def name_of(dtype: torch.dtype) -> str:
    """float32, not torch.float32."""
    return str(dtype).removeprefix("torch.")
