"""The slot of running a block: as Python, or compiled by torch.compile.

One block's code serves every layer: the blocks differ only in their weights, which are inputs of the compiled code.
So a model of any depth compiles one block, once for each shape.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

RunBlock = Callable[[nn.Module, Tensor], Tensor]

MOST_SHAPES = 8  # to compile; a run that goes on meeting new ones would do nothing else


def eager(block: nn.Module, x: Tensor) -> Tensor:
    """The block as Python runs it."""
    out: Tensor = block(x)
    return out


class CompiledBlocks:
    """Runs blocks through torch.compile where gradients are wanted, and as Python where they are not.

    Training sees one shape, or a few, again and again. Generation and evaluation see many lengths, few times each:
    compiling one takes longer than running it.
    """

    def __init__(self) -> None:
        self.compiled: dict[object, RunBlock] = {}  # by what a graph is made for
        self.graphs = 0  # compiled so far
        self.seconds = 0.0  # that they took: tracing and compiling, forward and backward

    def __call__(self, block: nn.Module, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # or a user compiles the whole model
            return eager(block, x)
        kind = x.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (tuple(x.shape), x.dtype, x.device, block.training, autocast)
        if key in self.compiled:
            return self.compiled[key](block, x)
        with self.timing():
            self.compiled[key] = self.compile(key)
            return self.compiled[key](block, x)

    def compile(self, key: object) -> RunBlock:
        """Code for one kind of input."""
        if len(self.compiled) == MOST_SHAPES:
            warnings.warn(
                f"compile: {MOST_SHAPES} shapes are compiled, further ones run as Python; train on batches of one "
                "shape to have all of them compiled",
                stacklevel=2,
            )
        if len(self.compiled) >= MOST_SHAPES:
            return eager
        # A code object of its own: torch keeps compiled code by code object, and gives up on one that was compiled
        # for too many shapes, counted over all models that share it.
        code = eager.__code__.replace(co_name="compiled_block")
        run = types.FunctionType(code, eager.__globals__, "compiled_block")
        compiled: RunBlock = torch.compile(run, backend=self.backend, fullgraph=True, dynamic=False)
        return compiled

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """torch's own backend, counted and timed."""
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def compile_inner(*args: Any, **kwargs: Any) -> Any:  # for the backward pass it is called when that first runs
            with self.timing():
                return compile_fx_inner(*args, **kwargs)

        with self.timing():
            compiled = compile_fx(graph, inputs, inner_compile=compile_inner, config_patches=vector_width())
        self.graphs += 1
        return compiled

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Add what happens inside to the seconds, once even if nested."""
        before, start = self.seconds, time.perf_counter()
        yield
        self.seconds = before + time.perf_counter() - start

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledBlocks:
        return self  # compiled code belongs to no model


def vector_width() -> dict[str, Any]:
    """torch's setting for how wide its compiler's vectors are on this CPU, which it would choose by itself.

    Stated, it is part of what torch looks up earlier compilations by. Left out, code that was compiled on the same disk
    with wider vectors (ATEN_CPU_CAPABILITY, or a cache that machines share) is taken for that of narrower ones, and
    computes NaN: seen in torch 2.13. So 0 is stated too, for none: code of wider vectors, which any torch.compile that
    states nothing leaves there, does then not even compile.
    """
    if not compilers():
        return {}  # nothing will be compiled, and torch would raise an error when it looks
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return {"cpp.simdlen": pick_vec_isa().bit_width()}


def block_runner() -> RunBlock:
    """Compiled blocks, or eager ones and one line that says so where there is no C++ compiler that works."""
    if not compilers():
        there = [name for name in wanted_compilers() if shutil.which(name)]
        lacks = f"{there[0]} does not take C++20 and Python.h" if there else "no C++ compiler"
        what = "g++ 10 or newer and Python's headers (python3-dev)" if there else "g++"
        warnings.warn(
            f"compile: {lacks} ({', '.join(wanted_compilers())}) on this machine, so blocks run as Python; install "
            f"{what}, or leave the rung out of the recipe",
            stacklevel=2,
        )
        return eager
    return CompiledBlocks()


def compilers() -> list[str]:
    """The C++ compilers that torch.compile may use here: they are there, and take what it writes."""
    return [name for name in wanted_compilers() if shutil.which(name) and takes_cpp20(name)]


@cache
def takes_cpp20(compiler: str) -> bool:
    """Whether a compiler takes C++20 and finds Python's header, as all that torch.compile writes needs.

    One that does not (g++ before 10, a Python without its headers) would end the first training step in a traceback.
    """
    if sys.platform == "win32":
        return True  # cl has options of its own
    source = "#include <Python.h>\n#include <vector>\n"
    include = sysconfig.get_path("include")
    asked = [compiler, "-std=c++20", "-fsyntax-only", f"-I{include}", "-x", "c++", "-"]
    try:
        done = subprocess.run(asked, input=source.encode(), capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def wanted_compilers() -> tuple[str, ...]:
    """The one that it would use: that of the environment, or the system's usual one."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return (os.environ.get("CXX", usual),)
