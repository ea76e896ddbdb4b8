"""The compilation slot: run a block eagerly, or compiled by torch.compile.

Blocks differ only in their weights, which are inputs of the compiled code. So a model of any depth compiles one block,
once per input shape.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
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

MOST_SHAPES = 8  # to compile; with ever new shapes a run would do nothing else


def eager(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block eagerly."""
    out: Tensor = block(x)
    return out


class CompiledBlocks:
    """Runs blocks compiled if gradients are enabled, else eagerly.

    Training repeats one or a few shapes. Generation and evaluation have many lengths, each only a few times, and
    compiling takes longer than running them.
    """

    def __init__(self) -> None:
        self.compiled: dict[object, RunBlock] = {}  # by shape, dtype, device, mode and autocast dtype
        self.graphs = 0  # compiled so far
        self.seconds = 0.0  # for tracing and compiling, forward and backward

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
        """Compiled code for one kind of input; eager once `MOST_SHAPES` are compiled."""
        if len(self.compiled) == MOST_SHAPES:
            warnings.warn(
                f"compile: {MOST_SHAPES} shapes are compiled, further ones run as Python; train on batches of one "
                "shape to have all of them compiled",
                stacklevel=2,
            )
        if len(self.compiled) >= MOST_SHAPES:
            return eager
        # A separate code object: torch caches compiled code by code object, and stops compiling one with too many
        # shapes, counted over all models that share it.
        code = eager.__code__.replace(co_name="compiled_block")
        run = types.FunctionType(code, eager.__globals__, "compiled_block")
        compiled: RunBlock = torch.compile(run, backend=self.backend, fullgraph=True, dynamic=False)
        return compiled

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """torch's inductor backend, counted and timed."""
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
        """Add the time inside to `seconds`; once if nested."""
        before, start = self.seconds, time.perf_counter()
        yield
        self.seconds = before + time.perf_counter() - start

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledBlocks:
        return self  # compiled code belongs to no model


def vector_width() -> dict[str, Any]:
    """The vector width of this CPU as an explicit inductor option, which makes it part of the key of compiled code.

    Without it, torch 2.13 reuses cached code with wider vectors (from another ATEN_CPU_CAPABILITY, or from another
    machine that shares the cache), which computes NaN. 0, for no vectors, is set as well: otherwise such cached code
    does not even compile.
    """
    if not compilers():
        return {}  # nothing will be compiled, and torch would raise an error when it looks
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return {"cpp.simdlen": pick_vec_isa().bit_width()}


def block_runner() -> RunBlock:
    """A runner of compiled blocks; without a working C++ compiler and cache, an eager one and a warning."""
    if not writable(cache_folder()):
        warnings.warn(
            f"compile: torch.compile's cache {cache_folder()} cannot be written, so blocks run as Python; set "
            "TORCHINDUCTOR_CACHE_DIR to another folder, or leave the rung out of the recipe",
            stacklevel=2,
        )
        return eager
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
    """The C++ compilers that exist here and compile torch.compile's code; none if that cannot be written to disk."""
    if not writable(cache_folder()):
        return []
    return [name for name in wanted_compilers() if shutil.which(name) and takes_cpp20(name)]


def cache_folder() -> str:
    """The folder of torch.compile's code, by torch's rule, whose own function takes a second to import."""
    if (given := os.environ.get("TORCHINDUCTOR_CACHE_DIR")) is not None:
        return os.path.abspath(given)
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):  # no name for this user id, as in some containers
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    return os.path.join(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


@cache
def writable(folder: str) -> bool:
    """Whether files can be written into a folder, which is made; otherwise the first step would end in a traceback."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@cache
def takes_cpp20(compiler: str) -> bool:
    """Whether a compiler accepts C++20 and finds Python.h, which torch.compile's code needs.

    Otherwise (g++ before 10, Python without headers) the first training step would end in a traceback.
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
    """The compiler that torch.compile uses: $CXX, or the system's default."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return (os.environ.get("CXX", usual),)
