"""Weights and moments convert between all layouts: reference, every recipe, Hugging Face, a folder on disk."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import optimized
import reference
from bench.contenders.huggingface_model import HuggingFaceGPT
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.parity import measure_all
from optimized import FULL, PLAIN, RUNGS, Recipe, only
from reference import GPT, GPTConfig
from reference.checkpoints.checkpoint import Checkpoint, load, save
from reference.checkpoints.huggingface import to_hf
from tests.parity.recipes import CONFIG, fast, grid, plain
from tests.parity.shapes import SHAPES
from tests.quick import quick

# Whatever changes the model may change what its parameters are made of.
IN_MODEL = [n for n, rung in RUNGS.items() if rung.in_model and n != "compile" and not rung.clash("cpu", "float64")]
LAYOUTS = [only(*names) for size in range(len(IN_MODEL) + 1) for names in combinations(IN_MODEL, size)]


def built(recipe: Recipe, config: GPTConfig, weights: dict[str, Tensor] | None = None) -> nn.Module:
    return optimized.build(config, recipe, weights, dtype=torch.float64)


# Every layout in the usual shape, without biases those of one rung, and in all shapes those with no rung and with all.
PLACES = [(recipe, "usual") for recipe in LAYOUTS] + [(only(name), "no-bias") for name in IN_MODEL]
PLACES += [
    (recipe, shape) for recipe in (PLAIN, FULL.without("bf16")) for shape in SHAPES if (recipe, shape) not in PLACES
]


@pytest.mark.parametrize("recipe, shape", PLACES, ids=str)
def test_weights_go_there_and_back_bit_for_bit(recipe: Recipe, shape: str) -> None:
    config = SHAPES[shape]
    weights = sharp_state_dict(config)
    readable, theirs = GPT(config).double(), HuggingFaceGPT(config, draw=False).double()
    fast_one = built(recipe, config, weights)
    assert fast_one.state_dict().keys() == readable.state_dict().keys() == weights.keys()
    readable.load_state_dict(fast_one.state_dict())
    theirs.load_state_dict(readable.state_dict())
    again = built(recipe, config)
    again.load_state_dict(theirs.state_dict())
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
        assert tensor.is_contiguous(), name
    for name, tensor in to_hf(fast_one.state_dict(), config).items():
        assert torch.equal(tensor, theirs.model.state_dict()[name]), name


def test_weights_go_from_every_layout_to_every_other() -> None:
    weights = sharp_state_dict(CONFIG)
    for before, after in pairwise([*LAYOUTS, *reversed(LAYOUTS)]):
        model = built(after, CONFIG, built(before, CONFIG, weights).state_dict())
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()), (before, after)


@pytest.mark.parametrize("recipe", [PLAIN, *map(only, IN_MODEL), FULL.without("bf16")], ids=str)
@pytest.mark.parametrize("what", quick(["missing", "unknown", "shape"], "missing"))
def test_loading_is_strict_and_names_what_does_not_fit(recipe: Recipe, what: str) -> None:
    names = ["h.1.attn.k_proj.weight", "wte.weight", "h.0.attn.v_proj.bias"] if what != "unknown" else ["h.9.attn.x"]
    for name in names:
        weights = sharp_state_dict(CONFIG)
        if what == "missing":
            del weights[name]
        else:
            weights[name] = torch.zeros(7, 7)
        with pytest.raises(RuntimeError, match=r"state_dict") as caught:
            built(recipe, CONFIG, weights)
        last = name.split(".")[-2]
        assert name in str(caught.value) or (last in ("k_proj", "v_proj") and "c_attn" in str(caught.value))


@pytest.mark.parametrize("recipe", quick(grid("float32"), PLAIN, FULL.without("bf16")), ids=str)
def test_no_wrapper_leaves_its_prefix_in_a_name(recipe: Recipe) -> None:
    model = fast(recipe, "float32")
    state = optimized.build_step(model, recipe).optimizer.state_dict()
    for name in [*model.state_dict(), *state]:
        assert not {"_orig_mod", "module", "c_attn", "qkv", "model"} & set(name.replace("/", ".").split(".")), name


def train_half(build_step: Any, model: nn.Module, state: dict[str, Tensor] | None, steps: range) -> dict[str, Tensor]:
    """Take steps, the optimizer going on from a state; returns its state afterwards."""
    step = build_step(model, learning_rate=1e-3)
    if state is not None:
        step.optimizer.load_state_dict(state)
    for number in steps:
        step(*random_batch(CONFIG, 2, 9, seed=number))
    return {name: tensor.clone() for name, tensor in step.optimizer.state_dict().items()}


def steps_of(recipe: Recipe | None) -> Any:
    if recipe is None:
        return reference.build_step
    return lambda model, **settings: optimized.build_step(model, recipe, **settings)


def model_of(recipe: Recipe | None, weights: dict[str, Tensor]) -> nn.Module:
    if recipe is not None:
        return built(recipe, CONFIG, weights)
    model = GPT(CONFIG).double()
    model.load_state_dict(weights)
    return model


EAGER = FULL.without("bf16", "compile")


@pytest.fixture(scope="module")
def whole() -> tuple[nn.Module, dict[str, Tensor]]:
    """A run of the reference in one go, and the state of its optimizer."""
    model = plain("float64")
    model.load_state_dict(sharp_state_dict(CONFIG))
    return model, train_half(reference.build_step, model, None, range(40))


@pytest.mark.parametrize(
    ("first", "second"),
    [(None, EAGER), (EAGER, None), (None, PLAIN), (PLAIN, EAGER), (only("fused_qkv"), only("fused_adamw"))],
    ids=lambda recipe: "reference" if recipe is None else str(recipe),
)
def test_half_a_run_on_each_side_is_a_whole_run_on_one_through_memory_or_a_folder(
    first: Recipe | None, second: Recipe | None, whole: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = sharp_state_dict(CONFIG)
    whole_model, whole_state = whole
    before = model_of(first, weights)
    state = train_half(steps_of(first), before, None, range(20))
    passed = before.state_dict()
    tokenizer = {"kind": "byte"}
    folder = save(tmp_path, Checkpoint(20, CONFIG, passed, state, tokenizer, {}))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "module" in name or "_orig" in name]  # noqa: SIM118
    read = load(folder)
    for memory, disk in ((passed, read.model), (state, read.optimizer)):
        assert memory.keys() == disk.keys()
        assert all(torch.equal(torch.as_tensor(tensor), torch.as_tensor(disk[name])) for name, tensor in memory.items())
    after = model_of(second, read.model)
    final_state = train_half(steps_of(second), after, read.optimizer, range(20, 40))

    moved, expected = ({n: t - weights[n] for n, t in m.state_dict().items()} for m in (after, whole_model))
    worst = max(measure_all("update", moved, expected), key=lambda m: m.error)
    assert worst.error <= 1e-9, worst
    assert final_state["step"] == whole_state["step"] == 40
    for kind in ("exp_avg/", "exp_avg_sq/"):
        a, b = ({n: t for n, t in s.items() if n.startswith(kind)} for s in (final_state, whole_state))
        worst = max(measure_all("update", a, b), key=lambda m: m.error)
        assert worst.error <= 1e-9, worst
