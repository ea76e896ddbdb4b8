"""Every rung fills its own slot and no other; every other slot has the reference's implementation."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import optimized
import reference
from bench.contenders.torch_step import build_library_step
from optimized import FULL, PLAIN, Recipe, build, build_step, only
from optimized.attention import ExplicitAttention, FlashAttention, HalvedAttention
from optimized.compilation import CompiledBlocks, eager
from optimized.distributed import Alone
from optimized.embedding import ExactTable, PaddedTable
from optimized.gemv import Compiled, in_parallel
from optimized.generation import cached_stream
from optimized.loss import fused_loss, plain_loss
from optimized.norm_mlp import FusedLayerNorm, FusedMLP
from optimized.optimizer import CanonicalAdamW, FusedAdamW
from optimized.precision import TF32, BFloat16, Exact
from optimized.qkv import FusedQKV, SeparateQKV
from reference.gpt import MLP, LayerNorm
from reference.sampling import stream
from reference.training import defaults
from tests.optimized.models import SMALL, sharp_model

CHOICES: dict[str, tuple[Any, Any]] = {  # slot -> without, with
    "qkv": (SeparateQKV, FusedQKV),
    "attention": (ExplicitAttention, HalvedAttention),
    "norm": (LayerNorm, FusedLayerNorm),
    "mlp": (MLP, FusedMLP),
    "embedding": (ExactTable, PaddedTable),
    "loss": (plain_loss, fused_loss),
    "precision": (Exact, BFloat16),
    "compilation": (type(eager), CompiledBlocks),
    "stream": (stream, cached_stream),
    "optimizer": (CanonicalAdamW, FusedAdamW),
}
RUNG = {
    "fused_qkv": {"qkv"},
    "sdpa": {"attention"},
    "fused_kernels": {"norm", "mlp"},
    "padded_vocab": {"embedding"},
    "fused_loss": {"loss"},
    "bf16": {"precision"},
    "compile": {"compilation"},
    "kv_cache": {"stream"},
    "fused_adamw": {"optimizer"},
    "kept_memory": set(),
    "ddp": set(),  # no change for one process
}


def chosen(recipe: Recipe) -> dict[str, Any]:
    """The implementation in each slot."""
    model = build(SMALL, recipe)
    block: Any = model.h[0]
    return {
        "qkv": type(block.attn.qkv),
        "attention": type(block.attn.attention),
        "norm": type(block.ln_1),
        "mlp": type(block.mlp),
        "embedding": type(model.wte),
        "loss": model.head_loss,
        "precision": type(model.precision),
        "compilation": type(model.run),
        "stream": model.stream,
        "optimizer": type(build_step(model, recipe).optimizer),
    }


@pytest.mark.parametrize("rung", RUNG)
def test_a_rung_fills_its_own_slot_alone(rung: str) -> None:
    expected = {slot: choices[slot in RUNG[rung]] for slot, choices in CHOICES.items()}
    assert chosen(only(rung)) == expected


def test_all_norms_of_a_model_are_of_one_kind() -> None:
    for recipe, kind in ((PLAIN, LayerNorm), (only("fused_kernels"), FusedLayerNorm)):
        norms = [type(module) for module in build(SMALL, recipe).modules() if isinstance(module, LayerNorm)]
        assert norms == [kind] * (2 * SMALL.n_layer + 1)


def test_every_rung_that_can_be_on_a_cpu_is_looked_at() -> None:
    assert set(RUNG) == set(FULL.rungs)
    assert chosen(PLAIN) == {slot: choices[0] for slot, choices in CHOICES.items()}
    assert chosen(FULL) == {slot: choices[1] for slot, choices in CHOICES.items()}


def test_a_product_of_one_row_is_what_its_precision_does_fastest() -> None:
    def product(recipe: Recipe) -> Any:
        return optimized.builder.choose_row_product(recipe, torch.device("cpu"))

    assert product(PLAIN) is in_parallel
    assert product(only("compile")) is in_parallel
    assert product(only("bf16")) is None
    assert isinstance(product(only("bf16", "compile")), Compiled)
    assert optimized.builder.choose_row_product(FULL, torch.device("cuda")) is None


def test_only_a_cpu_halves_its_attention() -> None:
    assert optimized.builder.choose_attention(FULL, torch.device("cpu")) is HalvedAttention
    assert optimized.builder.choose_attention(FULL, torch.device("cuda")) is FlashAttention
    assert optimized.builder.choose_attention(PLAIN, torch.device("cuda")) is ExplicitAttention


@pytest.mark.parametrize("recipe", [only("tf32"), only("tf32", "bf16")], ids=str)
def test_tf32_stands_around_the_other_precision(recipe: Recipe) -> None:
    precision = optimized.builder.choose_precision(recipe, torch.device("cuda"))
    assert isinstance(precision, TF32)
    assert type(precision.inner) is (BFloat16 if "bf16" in recipe else Exact)


@pytest.mark.parametrize("build", [reference.build_step, build_step, build_library_step], ids=lambda f: f.__module__)
def test_every_step_has_one_set_of_defaults(build: Any) -> None:
    expected = {name: getattr(defaults, name.upper()) for name in ("learning_rate", "weight_decay", "betas", "clip")}
    parameters = inspect.signature(build).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_a_step_has_the_default_settings_unless_told() -> None:
    assert inspect.signature(build_step).parameters["micro_batch"].default is None
    step: Any = build_step(sharp_model(FULL))
    group = step.optimizer.adamw.param_groups[0]
    assert (step.learning_rate, group["weight_decay"], group["betas"], step.clip) == (3e-4, 0.1, (0.9, 0.95), 1.0)
    assert step.micro_batch is None


def test_without_a_recipe_a_model_and_its_step_have_the_best_one() -> None:
    model = build(SMALL)
    assert model.recipe == optimized.best("cpu", "float32", SMALL)
    assert build(SMALL, dtype=torch.float64).recipe == optimized.best("cpu", "float64", SMALL)
    assert type(build_step(model).optimizer) is FusedAdamW
    assert type(build_step(build(SMALL, PLAIN)).optimizer) is CanonicalAdamW, "the recipe that it was built by"
    assert type(build_step(reference.GPT(SMALL)).optimizer) is FusedAdamW, "a model that no recipe built"


def in_a_group_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate `size` processes of torchrun; their exchange is a tuple."""
    monkeypatch.setattr(optimized.builder.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(optimized.builder.dist, "get_world_size", lambda: size)
    monkeypatch.setattr(optimized.builder, "DataParallel", lambda model: ("shared", model))


@pytest.mark.parametrize("size, recipe, shared", [(1, FULL, False), (2, FULL, True), (2, FULL.without("ddp"), False)])
def test_the_batch_is_shared_if_there_are_several_processes_and_it_is_asked_for(
    size: int, recipe: Recipe, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharp_model(recipe)
    in_a_group_of(size, monkeypatch)
    exchange: Any = build_step(model, recipe).exchange
    assert exchange == ("shared", model) if shared else type(exchange) is Alone


def test_without_a_process_group_its_size_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_group_of(2, monkeypatch)
    monkeypatch.setattr(optimized.builder.dist, "is_initialized", lambda: False)
    assert type(build_step(sharp_model(FULL), FULL).exchange) is Alone
    monkeypatch.setattr(optimized.builder.dist, "is_initialized", lambda: pytest.fail("this torch has no processes"))
    monkeypatch.setattr(optimized.builder.dist, "is_available", lambda: False)
    assert type(build_step(sharp_model(FULL), FULL).exchange) is Alone


def test_processes_cannot_share_a_batch_on_a_device_without_a_way_to_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp_model(PLAIN).to("meta")
    assert type(build_step(model, only("ddp")).exchange) is Alone, "alone it has nothing to exchange"
    in_a_group_of(2, monkeypatch)
    assert type(build_step(model, PLAIN).exchange) is Alone, "ddp is not in the recipe"
    message = "^the rung ddp and the device meta do not go together: choose the device cpu or cuda$"
    with pytest.raises(ValueError, match=message):
        build_step(model, only("ddp"))


@pytest.mark.gpu
def test_processes_share_a_batch_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp_model(PLAIN).to("cuda")
    in_a_group_of(2, monkeypatch)
    exchange: Any = build_step(model, only("ddp")).exchange
    assert exchange == ("shared", model)


@pytest.mark.parametrize("recipe", [PLAIN, only("fused_adamw")], ids=str)
def test_a_step_is_told_everything(recipe: Recipe) -> None:
    model = sharp_model(recipe)
    step = build_step(model, recipe, 0.25, 0.3, (0.7, 0.8), clip=2.5, micro_batch=3)
    optimizer: Any = step.optimizer
    library = optimizer.adamw.param_groups[0] if recipe != PLAIN else None
    betas = library["betas"] if library else optimizer.betas
    decay = library["weight_decay"] if library else optimizer.weight_decay
    assert (step.learning_rate, decay, betas, step.clip, step.micro_batch) == (0.25, 0.3, (0.7, 0.8), 2.5, 3)
    assert step.model is model
    assert step.precision is model.precision
    assert type(step.exchange) is Alone
    assert step.exchange.model is model


def test_a_model_that_is_not_built_here_is_computed_as_it_is() -> None:
    model = reference.GPT(SMALL)
    step = build_step(model, only("fused_adamw"))
    assert type(step.precision) is Exact
    assert isinstance(step.optimizer, FusedAdamW)


def test_what_is_built_is_on_the_cpu_in_float32_in_train_mode_with_the_references_first_weights() -> None:
    torch.manual_seed(4)
    model = build(SMALL)
    after = torch.rand(3)
    torch.manual_seed(4)
    readable = reference.GPT(SMALL)
    assert torch.equal(torch.rand(3), after), "the stream of random numbers goes on as after the reference"
    assert model.training
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("cpu", torch.float32)}
    assert all(torch.equal(tensor, readable.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_it_is_built_where_and_in_what_it_is_asked_for() -> None:
    given = {name: tensor.double() for name, tensor in reference.GPT(SMALL).state_dict().items()}
    model = build(SMALL, PLAIN, given, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())
    before = torch.random.get_rng_state()
    build(SMALL, PLAIN, given)
    assert torch.equal(torch.random.get_rng_state(), before), "no random number is used where weights are given"


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter:UserWarning")
def test_the_device_may_be_another_than_the_weights() -> None:
    model = build(SMALL, PLAIN, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


def test_memory_is_kept_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    monkeypatch.setattr(optimized.builder, "keep_freed_memory", lambda: kept.append("kept"))
    build(SMALL, PLAIN)
    assert kept == []
    build(SMALL, only("kept_memory"))
    assert kept == ["kept"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"clip": 0.0}, r"^clip = 0\.0: give a number above 0; inf switches clipping off$"),
        ({"clip": -1.0}, r"^clip = -1\.0: give"),
        ({"clip": float("nan")}, r"^clip = nan: give"),
        ({"micro_batch": 0}, r"^micro-batch 0: give 1 or more rows$"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_step(sharp_model(PLAIN), PLAIN, **settings)
    assert build_step(sharp_model(PLAIN), PLAIN, clip=1e-9, micro_batch=1).micro_batch == 1
