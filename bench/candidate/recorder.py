"""Everything that a module computes while it runs: each tensor, by which operation and in which submodule.

Operations are seen as Python calls them (torch.*, torch.nn.functional.*, methods and operators of tensors), so scores,
softmax and GELU show even where they are no modules. What one call computes inside (a fused attention kernel, a
scripted or compiled function) shows only by its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Record:
    """One tensor that was computed."""

    number: int  # in order of execution
    operation: str  # as Python calls it; "output" where a module handed it out
    module: str  # that ran it, by its name; "" for the model itself
    value: Tensor  # a copy of what it was then, on the CPU
    tensor: Tensor  # itself, for its gradient

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the model itself'}"


class Recorder(TorchFunctionMode):
    """Records floating tensors of some sizes; made by `recorded`."""

    def __init__(self, sizes: set[int], gradients: bool) -> None:
        super().__init__()
        self.sizes, self.gradients = sizes, gradients
        self.records: list[Record] = []
        self.within: list[str] = [""]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "operation")
        if name == "__get__":  # x.T and the like
            name = getattr(getattr(func, "__self__", None), "__name__", "attribute")
        changed = args[0] if name == "__setitem__" else found  # x[...] = y gives nothing, and changes x
        for tensor in tensors_in(changed):
            self.note(tensor, name.strip("_"))
        return found

    def note(self, tensor: Tensor, operation: str) -> None:
        """Keep a tensor, if it is of one of the sizes."""
        weight = tensor.is_leaf and tensor.requires_grad
        if weight or not tensor.is_floating_point() or tensor.numel() not in self.sizes:
            return
        if self.gradients and tensor.requires_grad:
            tensor.retain_grad()
        self.records.append(
            Record(len(self.records), operation, self.within[-1], tensor.detach().to("cpu", copy=True), tensor)
        )

    def enter(self, name: str) -> Callable[..., None]:
        """A hook before a submodule runs."""
        return lambda module, arguments: self.within.append(name)

    def leave(self, name: str) -> Callable[..., None]:
        """A hook after it."""

        def hook(module: nn.Module, arguments: Any, found: Any) -> None:
            self.within.pop()
            for tensor in tensors_in(found):
                if not any(record.tensor is tensor for record in self.records[-8:]):
                    self.note(tensor, "output")

        return hook


def tensors_in(found: Any) -> Iterator[Tensor]:
    """The tensors in what a call gave."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from tensors_in(one)


@contextmanager
def recorded(module: nn.Module, sizes: set[int], gradients: bool = False) -> Iterator[list[Record]]:
    """Record what is computed inside the block.

    Args:
        module: whose submodules' names are told
        sizes: numbers of elements worth keeping
        gradients: have each tensor keep its gradient in the backward pass
    """
    recorder = Recorder(sizes, gradients)
    handles = []
    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(recorder.enter(name)))
            handles.append(part.register_forward_hook(recorder.leave(name)))
    try:
        with recorder:
            yield recorder.records
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Rounding:
    """An operation that took numbers of more bits and gave some of fewer."""

    operation: str
    dtype: torch.dtype  # of what it gave
    module: str

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} in {self.module or 'the model itself'} ({self.operation})"


class RoundingWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where a computation goes on in fewer bits than it came with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Rounding] = []
        self.within: list[str] = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        bits = [t.dtype.itemsize for t in tensors_in(args) if t.is_floating_point() and t.dim()]
        for tensor in tensors_in(found):
            if tensor.is_floating_point() and tensor.dim() and bits and tensor.dtype.itemsize < max(bits):
                self.found.append(Rounding(str(func).split(".")[1], tensor.dtype, self.within[-1]))
        return found


@contextmanager
def roundings(module: nn.Module) -> Iterator[list[Rounding]]:
    """Note what goes on in fewer bits inside the block; by the names of the module's submodules."""
    watch = RoundingWatch()
    handles = []
    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(lambda m, a, name=name: watch.within.append(name)))
            handles.append(part.register_forward_hook(lambda m, a, out: (watch.within.pop(), None)[1]))
    try:
        with watch:
            yield watch.found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only_python() -> Iterator[None]:
    """Run what is compiled as Python, so that what it computes can be seen."""
    torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
