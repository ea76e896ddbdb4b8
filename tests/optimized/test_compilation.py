"""One block is compiled once per shape, for models of any depth; without compiling, answers stay right."""

from __future__ import annotations

import copy
import re
import time
import types
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.numerics.inputs import random_batch
from optimized import FULL, PLAIN, Recipe, build, build_step, compilation, generate, only
from optimized.compilation import CompiledBlocks, block_runner, compilers, eager
from optimized.generation import left_pad
from optimized.gpt import GPT
from reference import GPTConfig
from reference import generate as reference_generate
from reference.checkpoints.canonical import canonical_gradients
from tests.optimized.models import SMALL, relative, sharp_model, sharp_reference

COMPILE = only("compile")
FAST = FULL.without("bf16", "ddp")
TINY = GPTConfig(block_size=16, vocab_size=31, n_layer=1, n_head=2, n_embd=8)
COMPILERS = pytest.mark.skipif(not compilers(), reason="no C++ compiler here")


def batch(B: int, T: int, config: GPTConfig = TINY, seed: int = 0) -> tuple[Tensor, Tensor]:
    return random_batch(config, B, T, seed=seed)


def runner(model: GPT) -> CompiledBlocks:
    assert isinstance(model.run, CompiledBlocks)
    return model.run


class Graphs:
    """Stands in for torch's own backend: counts graphs and runs them uncompiled, which is quick."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def backend(run: CompiledBlocks, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            run.graphs += 1
            return graph

        monkeypatch.setattr(CompiledBlocks, "backend", backend)
        monkeypatch.setattr(compilation, "block_runner", CompiledBlocks)
        monkeypatch.setattr("optimized.builder.block_runner", CompiledBlocks)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    return Graphs(monkeypatch)


def assert_right(model: GPT, config: GPTConfig, ids: Tensor, targets: Tensor) -> None:
    """Loss and gradients as the reference's."""
    reference, loss = sharp_reference(config), model.loss(ids, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = reference.loss(ids, targets)
    expected.backward()  # type: ignore[no-untyped-call]
    assert relative(loss, expected) <= 1e-12
    gradients = canonical_gradients(reference)
    typical = max(float(g.norm()) for g in gradients.values())
    for name, gradient in canonical_gradients(model).items():
        assert float((gradient - gradients[name]).norm()) <= 1e-11 * typical, name
    model.zero_grad()


# --- how often: with a backend that only counts


@pytest.mark.parametrize("recipe", [COMPILE, FAST], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 7])
def test_a_model_of_any_depth_is_one_graph_without_a_break(graphs: Graphs, layers: int, recipe: Recipe) -> None:
    config = replace(TINY, n_layer=layers)
    model = sharp_model(recipe, config)
    assert_right(model, config, *batch(2, 5))
    assert runner(model).graphs == 1, "one graph, and fullgraph=True refuses breaks"


class Reading(nn.Module):
    """A block that reads a value on the host; torch compiles it if told to."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


READS = {"item", "tolist", "nonzero", "masked_select", "equal", "cpu", "numpy", "unique", "__bool__"}


@pytest.mark.parametrize("recipe", [COMPILE, FAST, None], ids=str)
def test_a_graph_has_nothing_in_it_that_reads_from_the_device(
    recipe: Recipe | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """test_device_reads.py runs a whole step, but its blocks as Python."""
    seen: list[str] = []

    def backend(run: CompiledBlocks, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        seen.extend(getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes)
        return graph

    monkeypatch.setattr(CompiledBlocks, "backend", backend)
    x = torch.randn(2, 5, TINY.n_embd, dtype=torch.float64)
    block = Reading() if recipe is None else sharp_model(recipe, TINY).h[0]
    CompiledBlocks()(block, x)
    assert len(seen) > 2
    assert (READS & set(seen) == {"item"}) if recipe is None else not READS & set(seen), seen


def test_every_shape_is_compiled_once_and_known_ones_never_again(graphs: Graphs) -> None:
    model = sharp_model(FAST, replace(TINY, n_layer=2))
    shapes = [(2, 5), (2, 7), (3, 5), (1, 1), (1, 16)]
    for turn in range(3):
        for number, shape in enumerate(shapes, start=1):
            model.loss(*batch(*shape)).backward()  # type: ignore[no-untyped-call]
            assert runner(model).graphs == (number if turn == 0 else len(shapes)), f"{shape}, turn {turn}"


def test_training_steps_and_loaded_weights_compile_nothing_again(graphs: Graphs) -> None:
    model = sharp_model(FAST, TINY)
    step = build_step(model, FAST)
    for seed in range(4):
        step(*batch(2, 5, seed=seed))
    model.load_state_dict(sharp_reference(TINY, seed=4).state_dict())
    step(*batch(2, 5))
    model.zero_grad(set_to_none=False)
    step(*batch(2, 5))
    assert runner(model).graphs == 1


@pytest.mark.slow
def test_two_models_do_not_disturb_each_other(graphs: Graphs) -> None:
    wide = replace(TINY, n_embd=12)
    a, b = sharp_model(FAST, TINY), sharp_model(COMPILE, wide)
    for _ in range(2):
        for T in (3, 8):
            assert_right(a, TINY, *batch(2, T))
            assert_right(b, wide, *batch(2, T))
    assert (runner(a).graphs, runner(b).graphs) == (2, 2)


@pytest.mark.slow
def test_many_models_are_compiled_one_graph_each(graphs: Graphs) -> None:
    """torch gives up on code that was compiled for more than 8 shapes, counted over all models that share it."""
    for number in range(10):
        config = replace(TINY, n_embd=8 + 2 * number)
        model = sharp_model(COMPILE, config)
        assert_right(model, config, *batch(2, 4))
        assert runner(model).graphs == 1


def test_train_and_eval_mode_are_two_graphs_and_both_right(graphs: Graphs) -> None:
    config = replace(TINY, dropout=0.5)
    model = sharp_model(FAST, config)
    ids, targets = batch(2, 9)
    model.train()
    dropped = model.loss(ids, targets)
    model.eval()
    assert_right(model, TINY, ids, targets)
    assert runner(model).graphs == 2
    model.train()
    assert relative(model.loss(ids, targets), dropped) > 1e-6, "dropout draws again"
    assert runner(model).graphs == 2
    assert relative(dropped, sharp_reference(TINY).loss(ids, targets)) > 1e-6


def test_autocast_from_outside_has_a_graph_of_its_own(graphs: Graphs) -> None:
    model = sharp_model(COMPILE, TINY, dtype=torch.float32)
    ids, targets = batch(2, 5)
    exact = model.loss(ids, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.loss(ids, targets)
    assert 1e-5 < relative(rounded, exact) < 5e-2
    assert torch.equal(model.loss(ids, targets), exact)
    assert runner(model).graphs == 2


@pytest.mark.slow
def test_too_many_shapes_give_one_warning_and_right_results(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2
    assert most < compilation.MOST_SHAPES
    monkeypatch.setattr(compilation, "MOST_SHAPES", most)
    model = sharp_model(COMPILE, TINY)
    for T in range(1, most + 1):
        assert_right(model, TINY, *batch(2, T))
    with pytest.warns(UserWarning, match="compile") as warned:
        assert_right(model, TINY, *batch(2, most + 1))
    assert [str(w.message) for w in warned] == [
        f"compile: {most} shapes are compiled, further ones run as Python; train on batches of one shape to have all "
        "of them compiled"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for T in range(most + 2, 7):
            assert_right(model, TINY, *batch(2, T))
        for T in range(1, 7):
            assert_right(model, TINY, *batch(2, T))
    assert runner(model).graphs == most


@pytest.mark.parametrize("recipe", [COMPILE, FAST, FAST.without("kv_cache")], ids=str)
def test_generation_and_evaluation_never_compile_whatever_the_length(graphs: Graphs, recipe: Recipe) -> None:
    model = sharp_model(recipe, TINY).eval()
    reference = sharp_reference(TINY).eval()
    with torch.no_grad():
        for T in range(1, 17):
            ids, targets = batch(2, T)
            assert relative(model.loss(ids, targets), reference.loss(ids, targets)) <= 1e-12
            assert relative(model(ids), reference(ids)) <= 1e-12
    ids = batch(2, 3)[0]
    expected = reference_generate(reference, ids, 20, temperature=0.0)
    assert torch.equal(generate(model, ids, 20, temperature=0.0), expected)
    if "kv_cache" in recipe:
        ids, padding = left_pad([[1], [2, 3, 4]])
        generate(model, ids, 20, padding=padding)
    with torch.inference_mode():
        model(ids)
    assert runner(model).graphs == 0


def test_generation_between_steps_compiles_nothing_either(graphs: Graphs) -> None:
    model = sharp_model(FAST, TINY)
    step = build_step(model, FAST)
    for _ in range(3):
        step(*batch(2, 5))
        generate(model.eval(), batch(1, 4)[0], 6)
        model.train()
    assert runner(model).graphs == 1


def test_a_duplicate_trains_on_its_own_weights(graphs: Graphs) -> None:
    model = sharp_model(COMPILE, TINY)
    assert_right(model, TINY, *batch(2, 5))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert_right(model, TINY, *batch(2, 5))
    ids, targets = batch(2, 5)
    plain = build(TINY, PLAIN, twin.state_dict(), dtype=torch.float64)
    assert relative(twin.loss(ids, targets), plain.loss(ids, targets)) <= 1e-12


def test_state_dicts_show_nothing_of_it(graphs: Graphs) -> None:
    model = sharp_model(FAST, TINY)
    assert_right(model, TINY, *batch(2, 5))
    assert list(model.state_dict()) == list(sharp_reference(TINY).state_dict())


# --- no compiler


@pytest.mark.parametrize("recipe", [COMPILE, FAST], ids=str)
def test_without_a_cpp_compiler_one_line_says_so_and_blocks_run_as_python(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.warns(UserWarning, match="compile") as warned:
        model = sharp_model(recipe, TINY)
    assert [str(w.message) for w in warned] == [
        "compile: no C++ compiler (/nonexistent) on this machine, so blocks run as Python; install g++, or leave the "
        "rung out of the recipe"
    ]
    assert model.run is eager
    assert_right(model, TINY, *batch(2, 5))


@pytest.mark.parametrize(("system", "usual"), [("linux", "g++"), ("darwin", "clang++"), ("win32", "cl")])
def test_it_looks_for_the_compiler_that_torch_would_use(
    system: str, usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    # not sys.platform itself: shutil.which reads it too, and since Python 3.12 fails
    monkeypatch.setattr(compilation, "sys", types.SimpleNamespace(platform=system))
    with pytest.warns(UserWarning, match=re.escape(f"no C++ compiler ({usual})")):
        assert block_runner() is eager


# --- torch's own backend, on a shape that tests share: code that torch has compiled once it finds in its cache


@COMPILERS
@pytest.mark.slow
def test_compiled_blocks_train_and_say_how_long_compiling_took(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one test, because every graph costs seconds."""
    config = replace(TINY, n_layer=2)
    model = sharp_model(FAST, config)
    ids, targets = batch(2, 6)
    assert (runner(model).graphs, runner(model).seconds) == (0, 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # else the cache of another run would be loaded
    start = time.perf_counter()
    loss = model.loss(ids, targets)
    forward = runner(model).seconds
    loss.backward()  # type: ignore[no-untyped-call]
    wall = time.perf_counter() - start
    both = runner(model).seconds
    assert 0.0 < forward < both, "the backward pass is compiled when it first runs, and has to count"
    assert both < wall, f"{both:.1f} s of {wall:.1f} s"
    model.zero_grad()
    assert_right(model, config, ids, targets)
    assert (runner(model).graphs, runner(model).seconds) == (1, both), "a known shape was compiled again"


@COMPILERS
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [FAST, FULL.without("ddp")], ids=str)
def test_it_trains_as_eager_code_does(recipe: Recipe) -> None:
    sides = sharp_model(recipe), sharp_model(recipe.without("compile"))
    steps = [build_step(model, recipe, learning_rate=1e-3) for model in sides]
    for seed in range(20):
        losses = [step(*batch(2, 9, SMALL, seed)) for step in steps]
        assert relative(losses[0], losses[1]) <= (1e-2 if "bf16" in recipe else 1e-11), f"step {seed}"
    assert runner(sides[0]).graphs == 1


@COMPILERS
@pytest.mark.slow
def test_two_compiled_models_in_turn_are_both_right_and_compiled_once() -> None:
    wide = replace(TINY, n_embd=12)
    a, b = sharp_model(FAST, SMALL), sharp_model(COMPILE, wide)
    for _ in range(3):
        assert_right(a, SMALL, *batch(2, 9, SMALL))
        assert_right(b, wide, *batch(2, 5))
    assert (runner(a).graphs, runner(b).graphs) == (1, 1)


@COMPILERS
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [FULL.without("ddp")], ids=str)
def test_dropout_is_on_while_training_and_off_while_evaluating(recipe: Recipe) -> None:
    config = replace(SMALL, dropout=0.3)
    model = sharp_model(recipe, config)
    step = build_step(model, recipe, learning_rate=1e-2)
    losses = [float(step(*batch(2, 9, config))) for _ in range(30)]
    assert all(torch.tensor(losses).isfinite())
    assert sum(losses[-5:]) < sum(losses[:5]), "it does not learn"
    ids, targets = batch(2, 9, config)
    with torch.random.fork_rng(devices=[]):
        first, second = model.loss(ids, targets), model.loss(ids, targets)
        assert not torch.equal(first, second), "dropout draws the same every time"
        torch.manual_seed(0)
        again = model.loss(ids, targets)
        torch.manual_seed(0)
        assert torch.equal(model.loss(ids, targets), again), "the seed does not decide what is dropped"
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.loss(ids, targets), model.loss(ids, targets))
    # and in the code that is compiled for eval mode, where gradients are wanted
    assert torch.equal(model.loss(ids, targets), model.loss(ids, targets))
    assert runner(model).graphs == 2


@COMPILERS
@pytest.mark.slow
def test_a_user_may_compile_the_whole_model_instead() -> None:
    model = sharp_model(only("compile", "sdpa"), TINY)
    ids, targets = batch(2, 5)
    expected = sharp_reference(TINY).loss(ids, targets)
    whole = torch.compile(model.loss, backend="aot_eager")
    assert relative(whole(ids, targets), expected) <= 1e-12
    assert runner(model).graphs == 0


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [COMPILE, FULL.without("ddp")], ids=str)
def test_on_cuda_it_trains_as_eager_code_does_with_one_graph(recipe: Recipe) -> None:
    config = replace(SMALL, n_layer=3)
    sides = [sharp_model(r, config, torch.float32, "cuda") for r in (recipe, recipe.without("compile"))]
    steps = [build_step(model, recipe, learning_rate=1e-3) for model in sides]
    for seed in range(20):
        ids, targets = (t.cuda() for t in batch(2, 9, config, seed))
        losses = [step(ids, targets) for step in steps]
        assert relative(losses[0], losses[1]) <= (1e-2 if "bf16" in recipe else 1e-4), f"step {seed}"
    assert runner(sides[0]).graphs == 1
    generate(sides[0].eval(), ids[:, :5], 30, temperature=0.0)
    assert runner(sides[0]).graphs == 1
