"""New tensors go where the model is, and not to torch's default device: a fault that otherwise shows on a GPU alone.

The default is the device "meta" here, whose tensors have no numbers: the first of them in a computation spoils it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import optimized
import reference
from optimized import PLAIN, Recipe, only, without
from optimized.attention import HALF, HalvedAttention
from optimized.generation import CachedGPT, left_pad
from tests.optimized.models import SMALL, sharp_model, sharp_reference

RECIPES = [PLAIN, only("kv_cache"), without("compile"), without("compile", "bf16"), without("compile", "bf16", "sdpa")]
IDS = torch.arange(2 * 20).view(2, 20) % SMALL.vocab_size
SAMPLING = {"temperature": 0.8, "top_k": 20, "top_p": 0.9}


Step = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[], tuple[torch.nn.Module, Callable[[], Step], Callable[..., Tensor]]]


def of_reference() -> tuple[torch.nn.Module, Callable[[], Step], Callable[..., Tensor]]:
    model = sharp_reference()
    return model, partial(reference.build_step, model), reference.generate


def of_recipe(recipe: Recipe) -> tuple[torch.nn.Module, Callable[[], Step], Callable[..., Tensor]]:
    model = sharp_model(recipe)
    return model, partial(optimized.build_step, model, recipe), optimized.generate


def outcomes(build: Build, default: str) -> dict[str, Tensor]:
    """What a user may do with a model that is built."""
    model, build_step, generate = build()
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.device(default):
        step = build_step()
        return {
            "losses": torch.stack([step(IDS[:, :-1], IDS[:, 1:]).detach() for _ in range(3)]),
            "logits": model.eval()(IDS).detach(),
            "greedy": generate(model, IDS, 8, temperature=0.0),
            "sampled": generate(model, IDS, 8, generator=generator, **SAMPLING),
        }


@pytest.mark.parametrize(
    "build", [of_reference, *(partial(of_recipe, recipe) for recipe in RECIPES)], ids=["reference", *map(str, RECIPES)]
)
def test_a_model_works_whatever_the_default_device(build: Build) -> None:
    expected, actual = outcomes(build, "cpu"), outcomes(build, "meta")
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_prompts_of_unequal_length_work_whatever_the_default_device() -> None:
    prompts, padding = left_pad([[5, 6, 7], [1]])
    model = sharp_model(only("kv_cache")).eval()
    expected = optimized.generate(model, prompts, 5, temperature=0.0, padding=padding)
    with torch.device("meta"):
        assert torch.equal(optimized.generate(model, prompts, 5, temperature=0.0, padding=padding), expected)


@pytest.mark.parametrize("padding", [2, torch.tensor([0, 1])], ids=["none", "some"])
def test_the_kv_cache_works_whatever_the_default_device(padding: int | Tensor) -> None:
    model, found = sharp_model(only("kv_cache")).eval(), []
    for default in ("cpu", "meta"):
        with torch.device(default):
            cached = CachedGPT(model, padding)
            found.append(torch.cat([cached.extend(IDS[:, :7]), cached.extend(IDS[:, 7:])], dim=1))
    assert torch.equal(*found)


@pytest.mark.parametrize("T", [HALF, HALF + 1])
def test_attention_in_halves_works_whatever_the_default_device(T: int) -> None:
    attend = HalvedAttention(SMALL).eval()
    q, k, v = torch.randn(3, 1, 1, T, 8, dtype=torch.float64)
    expected = attend(q, k, v)
    with torch.device("meta"):
        assert torch.equal(attend(q, k, v), expected)
