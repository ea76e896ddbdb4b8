"""CompiledBlocks on a block of one weight: which calls are compiled, with which options, and what is counted.

test_compilation.py has whole models.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimized import compilation
from optimized.compilation import (
    CompiledBlocks,
    RunBlock,
    block_runner,
    cache_folder,
    compilers,
    eager,
    vector_width,
    wanted_compilers,
)
from optimized.hardware import hardware_of

X = torch.arange(6.0, dtype=torch.float64).view(2, 3)


class Scale(nn.Module):
    """Multiplies by its weight."""

    def __init__(self, weight: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Keys(CompiledBlocks):
    """Records its inputs; its compiled code returns the negative, to differ from eager code."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[object] = []

    def compile(self, key: object) -> RunBlock:
        self.keys.append(key)
        return lambda block, x: -block(x)


class Clock:
    """Stands in for the time module: time passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(compilation, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def passing(clock: Clock, seconds: float, run: RunBlock = eager) -> RunBlock:
    """A function that runs a block and takes that many seconds."""

    def slowly(block: nn.Module, x: Tensor) -> Tensor:
        clock.now += seconds
        return run(block, x)

    return slowly


# --- which calls are compiled


def test_new_compiled_blocks_have_compiled_nothing() -> None:
    run = CompiledBlocks()
    assert (run.compiled, run.graphs, run.seconds) == ({}, 0, 0.0)


def test_each_kind_of_input_is_compiled_once() -> None:
    run, block = Keys(), Scale()
    kinds: list[tuple[Tensor, bool, bool]] = [  # input, train mode, under autocast
        (X, True, False),
        (X[:1], True, False),
        (X.float(), True, False),
        (X, False, False),
        (X, True, True),
    ]
    for _ in range(2):
        for x, training, autocast in kinds:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                assert torch.equal(run(block.train(training), x), -3.0 * x)
    cpu, double = torch.device("cpu"), torch.float64
    assert run.keys == [
        ((2, 3), double, cpu, True, None),
        ((1, 3), double, cpu, True, None),
        ((2, 3), torch.float32, cpu, True, None),
        ((2, 3), double, cpu, False, None),
        ((2, 3), double, cpu, True, torch.bfloat16),
    ]
    assert list(run.compiled) == run.keys


def test_without_gradients_it_runs_as_python() -> None:
    run = Keys()
    with torch.no_grad():
        assert torch.equal(run(Scale(), X), 3.0 * X)
    assert run.keys == []


def test_inside_a_model_that_a_user_compiles_it_runs_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Keys()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(run(Scale(), X), 3.0 * X)
    assert run.keys == []


# --- how long it takes


def test_compiling_and_the_first_call_count_and_later_calls_do_not(clock: Clock) -> None:
    class Slow(CompiledBlocks):
        def compile(self, key: object) -> RunBlock:
            clock.now += 2.0
            return passing(clock, 5.0)

    run, block = Slow(), Scale()
    run(block, X)
    assert run.seconds == 7.0
    run(block, X)
    assert run.seconds == 7.0
    run(block, X[:1])
    assert run.seconds == 14.0


def test_time_inside_time_counts_once(clock: Clock) -> None:
    run = CompiledBlocks()
    with run.timing():
        clock.now += 1.0
        with run.timing():
            clock.now += 2.0
        clock.now += 4.0
    assert run.seconds == 7.0
    clock.now += 8.0
    with run.timing():
        clock.now += 16.0
    assert run.seconds == 23.0


def test_both_passes_go_to_torchs_own_backend_counted_and_timed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for torch._inductor.compile_fx, which takes seconds to import."""
    given: list[object] = []

    def compile_fx(
        graph: object, inputs: object, inner_compile: Callable[..., object], config_patches: object
    ) -> Callable[[], object]:
        given.extend([graph, inputs, config_patches])
        clock.now += 1.0
        assert inner_compile(graph, 1, is_backward=False) == ((graph, 1), {"is_backward": False})
        return lambda: inner_compile(graph, 2, is_backward=True)

    def compile_fx_inner(*args: object, **kwargs: object) -> object:
        clock.now += 2.0
        return args, kwargs

    inductor: Any = types.ModuleType("torch._inductor.compile_fx")
    inductor.compile_fx, inductor.compile_fx_inner = compile_fx, compile_fx_inner
    monkeypatch.setitem(sys.modules, "torch._inductor.compile_fx", inductor)
    monkeypatch.setattr(compilation, "vector_width", lambda: {"cpp.simdlen": 256})
    run: Any = CompiledBlocks()
    first_backward = run.backend("graph", ["inputs"])
    assert given == ["graph", ["inputs"], {"cpp.simdlen": 256}]
    assert (run.graphs, run.seconds) == (1, 3.0)
    clock.now += 32.0
    assert first_backward() == (("graph", 2), {"is_backward": True})
    assert (run.graphs, run.seconds) == (1, 5.0)
    run.backend("another", [])
    assert (run.graphs, run.seconds) == (2, 8.0)


# --- what torch is asked for


def test_every_kind_has_a_code_object_of_its_own_under_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **how: run)
    runs: list[Any] = [CompiledBlocks().compile(key) for key in ("a", "b")]
    codes = [eager.__code__, *(run.__code__ for run in runs)]
    assert len({id(code) for code in codes}) == 3, "torch counts shapes by code object"
    for run in runs:
        assert (run.__name__, run.__code__.co_name) == ("compiled_block", "compiled_block")
        assert torch.equal(run(Scale(), X), 3.0 * X)


class Graphs(CompiledBlocks):
    """A backend that keeps the shapes of a graph's inputs, and runs the graph as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[list[Any]] = []

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.shapes.append([list(one.shape) for one in inputs])
        self.graphs += 1
        return graph


def test_each_graph_is_of_one_shape_and_has_gradients() -> None:
    run, block = Graphs(), Scale()
    for rows in (2, 3, 5):  # torch would make the second graph one for any number of rows
        x = torch.ones(rows, 3, dtype=torch.float64)
        out = run(block, x)
        assert torch.equal(out, 3.0 * x)
        (gradient,) = torch.autograd.grad(out.sum(), [block.weight])
        assert gradient == 3.0 * rows
    assert run.graphs == 3
    assert all(type(size) is int for shapes in run.shapes for shape in shapes for size in shape), run.shapes


def test_the_weights_are_inputs_so_another_block_needs_no_other_graph() -> None:
    run = Graphs()
    for weight in (3.0, 5.0, 7.0):
        assert torch.equal(run(Scale(weight), X), weight * X)
    assert run.graphs == 1


def test_a_block_that_cannot_be_one_graph_is_refused() -> None:
    class Broken(Scale):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x)

    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        Graphs()(Broken(), X)


# --- too many shapes

TOO_MANY = (
    "compile: 2 shapes are compiled, further ones run as Python; train on batches of one shape to have all of them "
    "compiled"
)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> CompiledBlocks:
    """CompiledBlocks with as many compiled shapes as allowed."""
    monkeypatch.setattr(compilation, "MOST_SHAPES", 2)
    monkeypatch.setattr(torch, "compile", lambda run, **how: run)
    run = CompiledBlocks()
    for key in ("a", "b"):
        run.compiled[key] = run.compile(key)
        assert run.compiled[key] is not eager, key
    return run


def test_one_shape_more_than_may_be_is_python_with_a_warning_and_those_after_it_without(full: CompiledBlocks) -> None:
    with pytest.warns(UserWarning, match="compile") as warned:
        full.compiled["c"] = full.compile("c")
    assert [str(w.message) for w in warned] == [TOO_MANY]
    assert full.compiled["c"] is eager
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert full.compile("d") is eager


# --- the compiler


def test_with_a_compiler_blocks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compilers", lambda: ["g++"])
    assert isinstance(block_runner(), CompiledBlocks)


def test_without_a_compiler_a_line_names_all_that_were_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "wanted_compilers", lambda: ("g++-13", "clang++-18"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="compile") as warned:
        assert block_runner() is eager
    assert [str(w.message) for w in warned] == [
        "compile: no C++ compiler (g++-13, clang++-18) on this machine, so blocks run as Python; install g++, or leave "
        "the rung out of the recipe"
    ]


def test_installed_compilers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "wanted_compilers", lambda: (sys.executable, "/nonexistent"))
    monkeypatch.setattr(compilation, "takes_cpp20", lambda name: True)
    assert compilers() == [sys.executable]


def test_where_compiled_code_cannot_be_written_blocks_run_as_python_and_a_line_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "file" / "cache"
    folder.parent.touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    assert not hardware_of("cpu").cache
    assert compilers() == []
    with pytest.warns(UserWarning, match=re.escape(f"compile: torch.compile's cache {folder} cannot be written, so")):
        assert block_runner() is eager


def test_the_folder_of_compiled_code_is_the_one_that_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    for user in ("ada", "HOME\\ada"):
        monkeypatch.setenv("LOGNAME", user)
        assert cache_folder() == default_cache_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="a compiler of shell words")
@pytest.mark.parametrize("fault", ["std=c++20", "Python.h"])
def test_a_compiler_that_cannot_compile_what_torch_writes_is_none(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "g++-8"
    old.write_text(f'#!/bin/sh\n(echo "$@"; cat) | grep -q "{fault}" && exit 1\nexit 0\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    assert compilers() == []
    with pytest.warns(UserWarning, match=re.escape(f"compile: {old} does not take C++20 and Python.h")):
        assert block_runner() is eager
    old.write_text("#!/bin/sh\nexit 0\n")
    compilation.takes_cpp20.cache_clear()
    assert compilers() == [str(old)]


@pytest.mark.parametrize(
    ("system", "usual"), [("linux", "g++"), ("freebsd14", "g++"), ("darwin", "clang++"), ("win32", "cl")]
)
def test_the_environment_names_the_compiler_else_it_is_the_systems(
    system: str, usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "sys", types.SimpleNamespace(platform=system))
    monkeypatch.delenv("CXX", raising=False)
    assert wanted_compilers() == (usual,)
    monkeypatch.setenv("CXX", "g++-13")
    assert wanted_compilers() == ("g++-13",)


def test_warnings_name_the_caller(full: CompiledBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compilers", lambda: [])
    for warn in (partial(full.compile, "c"), block_runner):  # partial, for no frame of this file but the next line's
        with pytest.warns(UserWarning, match=re.escape("compile: ")) as warned:
            warn()
        assert warned[0].filename == __file__


@pytest.mark.skipif(not compilers(), reason="needs a C++ compiler")
@pytest.mark.parametrize("capability, width", [("avx2", 256), ("avx512", 512), ("default", 0), (None, None)])
def test_the_width_of_vectors_is_always_stated_so_that_code_of_another_width_is_not_taken_from_the_cache(
    capability: str | None, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    if capability is not None:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    isa, stated = pick_vec_isa(), vector_width()
    assert stated == {"cpp.simdlen": isa.bit_width()}
    with config.patch(stated):
        assert pick_vec_isa().bit_width() == isa.bit_width(), "the same as torch would choose"
    if isa and width is not None:
        assert isa.bit_width() <= width, "no wider than asked"


ONE_LOSS = """
import torch
from optimized import build, only
from reference import GPTConfig
torch.manual_seed(0)
model = build(GPTConfig(block_size=32, vocab_size=65, n_layer=1, n_head=2, n_embd=64), only("compile"))
ids = torch.randint(65, (4, 32))
print(model.loss(ids, ids).item())
"""


@pytest.mark.long
@pytest.mark.skipif(not compilers(), reason="needs a C++ compiler")
def test_cpus_of_two_kinds_share_a_cache_of_compiled_code_and_compute_the_same(tmp_path: Path) -> None:
    unstated = "from optimized import compilation\ncompilation.vector_width = dict\n"  # as other projects compile
    losses = []
    for before, capability in ((unstated, None), ("", "avx2"), ("", "default")):
        variables = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path)
        if capability is not None:
            variables["ATEN_CPU_CAPABILITY"] = capability
        done = subprocess.run([sys.executable, "-c", before + ONE_LOSS], capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        losses.append(float(done.stdout))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
