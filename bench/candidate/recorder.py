"""Record all tensors that a module computes: the values, the operation and the submodule of each.

Recorded are calls from Python (torch.*, torch.nn.functional.*, tensor methods and operators), so scores, softmax and
GELU are recorded even if they are no modules. Inside one call (a fused attention kernel, a scripted or compiled
function) nothing is recorded but its output.
"""

from __future__ import annotations

import sys
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
    """One computed tensor."""

    number: int  # in order of execution
    operation: str  # the name of the function; "output" for a module's return value
    module: str  # name of the submodule that ran it; "" for the model itself
    value: Tensor  # a copy of its values at that moment, on the CPU
    tensor: Tensor  # the tensor itself, for its gradient

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the model itself'}"


class Recorder(TorchFunctionMode):
    """Records floating-point tensors of given numbers of elements; see `recorded`."""

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
        changed = args[0] if name == "__setitem__" else found  # x[...] = y returns nothing and changes x
        for tensor in tensors_in(changed):
            self.note(tensor, name.strip("_"))
        return found

    def note(self, tensor: Tensor, operation: str) -> None:
        """Record a tensor, if it has one of the numbers of elements."""
        weight = tensor.is_leaf and tensor.requires_grad
        if weight or not tensor.is_floating_point() or tensor.numel() not in self.sizes:
            return
        if self.gradients and tensor.requires_grad:
            tensor.retain_grad()
        self.records.append(
            Record(len(self.records), operation, self.within[-1], tensor.detach().to("cpu", copy=True), tensor)
        )

    def note_output(self, found: Any) -> None:
        """Record a submodule's return value, unless its last operation is recorded already."""
        for tensor in tensors_in(found):
            if not any(record.tensor is tensor for record in self.records[-8:]):
                self.note(tensor, "output")


def tensors_in(found: Any) -> Iterator[Tensor]:
    """All tensors in a return value."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from tensors_in(one)


@contextmanager
def submodules_named(
    module: nn.Module, within: list[str], returned: Callable[[Any], None] = lambda found: None
) -> Iterator[None]:
    """Inside the block, the last of `within` is the name of the submodule that runs.

    Args:
        returned: called with each submodule's return value, after its name is removed
    """

    def leave(part: nn.Module, arguments: Any, found: Any) -> None:
        within.pop()
        returned(found)

    handles = []
    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(lambda m, a, name=name: within.append(name)))
            handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(module: nn.Module, sizes: set[int], gradients: bool = False) -> Iterator[list[Record]]:
    """Record the tensors that are computed inside the block.

    Args:
        module: the module whose submodules are named in the records
        sizes: numbers of elements to record
        gradients: keep each tensor's gradient in the backward pass
    """
    recorder = Recorder(sizes, gradients)
    with submodules_named(module, recorder.within, recorder.note_output), recorder:
        yield recorder.records


@dataclass(frozen=True)
class Rounding:
    """An operation whose output has fewer bits than its input."""

    operation: str
    dtype: torch.dtype  # of the output
    module: str

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} in {self.module or 'the model itself'} ({self.operation})"


class RoundingWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operations whose output has fewer bits than their input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Rounding] = []
        self.within: list[str] = [""]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's own default imports its compiler to skip it, which takes 2 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        bits = [t.dtype.itemsize for t in tensors_in(args) if t.is_floating_point() and t.dim()]
        for tensor in tensors_in(found):
            if tensor.is_floating_point() and tensor.dim() and bits and tensor.dtype.itemsize < max(bits):
                self.found.append(Rounding(str(func).split(".")[1], tensor.dtype, self.within[-1]))
        return found


@contextmanager
def roundings(module: nn.Module) -> Iterator[list[Rounding]]:
    """Record the operations inside the block whose output has fewer bits than their input."""
    watch = RoundingWatch()
    with submodules_named(module, watch.within), watch:
        yield watch.found


@contextmanager
def only_python() -> Iterator[None]:
    """Run compiled code as plain Python inside the block, so that its operations are recorded."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes 2 s
        yield
        return
    torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
