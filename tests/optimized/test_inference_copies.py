"""The copy for inference follows its model's weights, shares unchanged ones, and is freed with the model."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from torch import Tensor, nn

from bench.numerics.inputs import random_batch, sharp_state_dict
from optimized import FULL, PLAIN, Recipe, build, build_step, generate, only
from optimized.gemv import in_parallel
from optimized.gpt import GPT
from optimized.inference_copies import InferenceCopies
from optimized.precision import TF32, BFloat16, Exact
from tests.optimized.models import SMALL, sharp_model

EAGER = FULL.without("compile", "ddp")
IDS, TARGETS = random_batch(SMALL, 2, 9)


def tokens(model: GPT) -> Tensor:
    return generate(model, IDS, 8, temperature=0.0)


def fresh(model: GPT, recipe: Recipe) -> GPT:
    """Another model with the same weights, which never generated anything."""
    return build(SMALL, recipe, model.state_dict()).eval()


@pytest.mark.parametrize(
    "change",
    ["optimizer step", "load_state_dict", "in place", "one entry", "biases", "norms", "positions", "data replaced"],
)
@pytest.mark.parametrize("recipe", [only("bf16", "kv_cache"), EAGER], ids=str)
def test_what_is_generated_follows_the_weights(recipe: Recipe, change: str) -> None:
    model = sharp_model(recipe).eval()
    step = build_step(model, recipe, learning_rate=0.1)
    before = tokens(model)
    assert torch.equal(before, tokens(model))
    with torch.no_grad():
        if change == "optimizer step":
            with torch.enable_grad():
                step(IDS, TARGETS)
        elif change == "load_state_dict":
            model.load_state_dict(sharp_state_dict(SMALL, seed=5))
        elif change == "in place":
            for parameter in model.parameters():
                parameter.mul_(-1.5)
        elif change == "one entry":
            model.wte.weight[int(before[0, -1])] *= -30.0
        elif change == "data replaced":
            for parameter in model.parameters():
                parameter.data = parameter.data * -1.5
        else:
            word = {"biases": "mlp.c_proj.bias", "norms": "ln_f", "positions": "wpe"}[change]
            for name, parameter in model.named_parameters():
                if word in name:
                    parameter.copy_(20.0 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = tokens(model)
    assert torch.equal(after, tokens(fresh(model, recipe))), "generated with other weights than the model's"
    assert not torch.equal(after, before), "the change changed nothing, so nothing is shown"


def test_as_long_as_the_weights_stay_there_is_one_copy() -> None:
    model = sharp_model(EAGER).eval()
    twin = model.precision.inference_copy(model)
    assert twin is not model
    tokens(model)
    model(IDS)
    model.train()
    model.eval()
    assert model.precision.inference_copy(model) is twin


def storages(module: nn.Module) -> dict[str, int]:
    return {name: p.untyped_storage().data_ptr() for name, p in module.named_parameters()}


def test_a_copy_has_its_own_matrices_and_shares_what_stays_float32() -> None:
    model = sharp_model(EAGER)
    twin = model.precision.inference_copy(model)
    own, theirs = storages(model), storages(twin)
    head = theirs.pop("wte.head.weight")
    assert own.keys() == theirs.keys()
    for name, parameter in twin.named_parameters():
        if name == "wte.head.weight":
            assert parameter.dtype == torch.bfloat16
            assert head not in own.values()
            continue
        narrow = "attn" in name or "mlp" in name
        assert parameter.dtype == (torch.bfloat16 if narrow else torch.float32), name
        assert (theirs[name] == own[name]) == (not narrow), name
        assert not parameter.requires_grad, name
    assert model.wte.head is None, "the model itself was given a head of its own"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.training
    assert not twin.training


def count(kind: type) -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other live objects may warn when inspected
        return sum(type(thing) is kind for thing in gc.get_objects())


def test_old_copies_are_given_back_and_go_with_their_model() -> None:
    before = count(GPT)
    model = sharp_model(EAGER)
    for _ in range(4):
        with torch.no_grad():
            model.wpe.weight.mul_(1.5)
        tokens(model)
    assert count(GPT) == before + 2, "the model and one inference copy"
    duplicate = copy.deepcopy(model)
    assert count(GPT) == before + 3, "a duplicate makes an inference copy when it needs one"
    assert torch.equal(tokens(duplicate), tokens(model))
    del model, duplicate
    assert count(GPT) == before


def test_a_duplicate_generates_as_the_original_does() -> None:
    copies = InferenceCopies(torch.bfloat16, in_parallel)
    twin = copy.deepcopy(copies)
    assert (twin.dtype, twin.product) == (torch.bfloat16, in_parallel)
    assert len(twin.known) == 0


def test_exact_precisions_generate_with_the_weights_of_the_model_itself() -> None:
    model = sharp_model(PLAIN)
    assert type(model.precision) is Exact
    twin = model.precision.inference_copy(model)
    theirs = storages(twin)
    assert theirs.pop("wte.head.weight") == model.wte.weight.untyped_storage().data_ptr()
    assert theirs == storages(model)
    assert Exact().inference_copy(model) is model, "where one row needs no other product, no copy is made"
    assert TF32(Exact()).inference_copy(model) is model
    assert TF32(BFloat16(torch.device("cpu"))).inference_copy(model) is not model
