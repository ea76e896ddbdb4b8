"""A training step and a decoding step read nothing from the device, in any recipe: they run where nothing can be read.

Fake tensors have a shape, a type and a device but no values; asking for a value is an error. Here they are on the CPU,
and are given the parts that a recipe has for the CPU and those that it has for CUDA; where torch is built for it, some
are on CUDA. What torch's own kernels for CUDA wait for shows only with a GPU: in the tests marked gpu.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode

import optimized
import reference
from optimized import FULL, PLAIN, RUNGS, Recipe, only, without
from optimized import generation as optimized_generation
from optimized.builder import choose_parts
from optimized.generation import CachedGPT, left_pad
from optimized.gpt import GPT
from reference import GPTConfig
from reference import sampling as reference_sampling
from reference.sampling import Sampling, next_token
from reference.training.adamw import clip_gradients

pytestmark = [
    pytest.mark.filterwarnings("ignore:bf16. this CPU has no bfloat16:UserWarning"),
    pytest.mark.filterwarnings("ignore:compile. no C:UserWarning"),
]

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=4)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
}


def recipes(device: str) -> list[Any]:
    """PLAIN, each rung alone, FULL, and FULL without each, as far as they can be there in float32."""
    wanted = [PLAIN, *map(only, RUNGS), FULL, *map(without, RUNGS)]
    possible = dict.fromkeys(recipe.possible(device, "float32") for recipe in wanted)
    slow = {recipe.possible(device, "float32") for recipe in map(without, RUNGS)} - {FULL.possible(device, "float32")}
    marks = {recipe: [pytest.mark.slow] if recipe in slow else [] for recipe in possible}
    return [pytest.param(recipe, device, id=f"{recipe}, {device}", marks=marks[recipe]) for recipe in possible]


# Some parts differ on CUDA.
FOR_CUDA = [PLAIN, only("tf32"), only("bf16"), FULL, FULL.plus("tf32")]
every_recipe = pytest.mark.parametrize(
    "recipe, parts_of", [*recipes("cpu"), *(pytest.param(one, "cuda", id=f"{one}, cuda") for one in FOR_CUDA)]
)


class Read(Exception):
    """An operation read a value."""


READS = (Read, DataDependentOutputException, DynamicOutputShapeException)


class NoCopies(TorchFunctionMode):
    """Refuses operations that read a tensor on the host; fake CPU tensors would allow some of them."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        moved = name == "to" and any(isinstance(one, str) for one in (*args, *kwargs.values()))  # torch names no device
        if name in ("cpu", "numpy", "tolist", "__array__", "__dlpack__") or moved:
            raise Read(name)
        if name == "data_ptr":
            return id(args[0])  # an address is no value: the host has it, though a fake tensor has none
        return func(*args, **kwargs)


MODE = FakeTensorMode()


@contextmanager
def nothing_to_read() -> Iterator[None]:
    """Inside, tensors have no values, and compiled code runs eagerly, with the same operations."""
    with torch.compiler.set_stance("force_eager"), MODE, NoCopies():
        yield


def fake(model: torch.nn.Module) -> Any:
    """The model without its values."""
    with FakeCopyMode(MODE):
        return copy.deepcopy(model)


def fast(recipe: Recipe, parts_of: str, monkeypatch: pytest.MonkeyPatch) -> GPT:
    """A model of fake weights with the parts that the recipe has on a device.

    For CUDA it is not built by `optimized.build`, which would put it there, and its autocast is the CPU's.
    """
    if parts_of == "cpu":
        return fake(optimized.build(CONFIG, recipe))
    usual = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **options: usual("cpu", **options))
    return fake(GPT(CONFIG, choose_parts(recipe, torch.device(parts_of))))


def ids_of(B: int, T: int) -> Tensor:
    return torch.zeros(B, T, dtype=torch.int64)


def targets_of(B: int, T: int) -> Tensor:
    return torch.full((B, T), -1)


def drawn(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    return next_token(logits, temperature, top_k, top_p, None)


@every_recipe
def test_a_training_step_reads_nothing(recipe: Recipe, parts_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast(recipe, parts_of, monkeypatch)
    with nothing_to_read():
        step = optimized.build_step(model, recipe, learning_rate=lambda step: 1e-3 / (step + 1))
        loss = step(ids_of(2, 4), targets_of(2, 4))
        assert loss.shape == step.gradient_norm.shape == ()
        assert step.optimizer.steps == 1


@pytest.mark.parametrize("recipe", [PLAIN, FULL], ids=str)
def test_a_training_step_in_micro_batches_reads_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast(recipe, "cpu", monkeypatch)
    with nothing_to_read():
        optimized.build_step(model, recipe, micro_batch=1)(ids_of(2, 4), targets_of(2, 4))


@pytest.mark.parametrize("clip", [1.0, float("inf")])
def test_a_training_step_of_the_reference_reads_nothing(clip: float) -> None:
    model = fake(reference.GPT(CONFIG))
    with nothing_to_read():
        step = reference.build_step(model, lambda step: 1e-3, clip=clip)
        assert step(ids_of(2, 4), targets_of(2, 4)).shape == ()


@every_recipe
def test_a_decoding_step_reads_nothing(recipe: Recipe, parts_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rung kv_cache and without: any model can read a text piece by piece."""
    model = fast(recipe, parts_of, monkeypatch).eval()
    with nothing_to_read():
        cached = CachedGPT(model, 2)
        cached.extend(ids_of(2, 3), last=1)
        logits = cached.extend(ids_of(2, 1), last=1)[:, -1]
        for settings in SETTINGS.values():
            assert drawn(logits, **settings).shape == (2, 1)


@pytest.mark.parametrize("recipe", [PLAIN, FULL], ids=str)
def test_a_decoding_step_with_padding_reads_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast(recipe, "cpu", monkeypatch).eval()
    with nothing_to_read():
        cached = CachedGPT(model, torch.zeros(2, dtype=torch.int64))
        cached.extend(ids_of(2, 3), last=1)
        assert cached.extend(ids_of(2, 1), last=1).shape == (2, 1, 11)


@pytest.mark.parametrize("text_of", ["kv_cache", "kv_cache, padded", "plain"])
def test_once_a_prompt_is_checked_a_text_reads_nothing_even_beyond_the_block_size(
    text_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reference_sampling, optimized_generation):
        monkeypatch.setattr(module, "check_prompt", lambda *arguments: None)
    monkeypatch.setattr(optimized_generation, "check_padding", lambda padding, ids: 2)
    model = fast(PLAIN if text_of == "plain" else only("kv_cache"), "cpu", monkeypatch).eval()
    with nothing_to_read():
        more = {"padding": torch.zeros(2, dtype=torch.int64)} if "padded" in text_of else {}
        text = list(model.stream(model, ids_of(2, 6), 4, Sampling(top_k=5, top_p=0.9), **more))
        assert torch.cat(text, dim=1).shape == (2, 4)


def test_the_prompt_and_its_padding_are_read_once_whatever_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = optimized.build(CONFIG, only("kv_cache")).eval()
    ids, padding = left_pad([[1, 2, 3], [4]])
    read: list[list[int]] = []
    usual = Tensor.tolist

    def tolist(self: Tensor) -> Any:
        read.append(usual(self))
        return read[-1]

    monkeypatch.setattr(Tensor, "tolist", tolist)
    for name in ("item", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, name, lambda self: pytest.fail("another read"))
    for count in (0, 1, 12):
        read.clear()
        optimized.generate(model, ids, count, temperature=0.0, padding=padding)
        assert read == [[0, 4], [0, 2]], f"{count} tokens: the ends of the ids, then of the padding"
        read.clear()
        reference.generate(model, ids, count, temperature=0.0)
        assert read == [[0, 4]], f"{count} tokens by the reference"


# --- on fake tensors of CUDA


@pytest.fixture
def cuda_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that is built for CUDA and believes in a device; no GPU is needed."""
    if not torch.backends.cuda.is_built():
        pytest.skip("needs a torch that is built for CUDA, though no GPU")
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *arguments, **options: True)


@pytest.mark.usefixtures("cuda_in_name")
@pytest.mark.parametrize("recipe, parts_of", [*recipes("cuda"), pytest.param(None, "cuda", id="reference")])
def test_on_fake_cuda_tensors_nothing_is_read_and_nothing_is_left_on_the_cpu(
    recipe: Recipe | None, parts_of: str
) -> None:
    """Without the backward pass, for which torch asks the driver. Operations on two devices at once are errors."""
    device = torch.device(parts_of)
    with nothing_to_read():
        model = reference.GPT(CONFIG) if recipe is None else GPT(CONFIG, choose_parts(recipe, device))
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                there = torch.empty(parameter.shape, device=device)
                module.register_parameter(name, torch.nn.Parameter(there))
                module.get_parameter(name).grad = torch.empty(parameter.shape, device=device)
        ids = torch.zeros(2, 4, dtype=torch.int64, device=device)
        results = [model.loss(ids, ids)]
        if isinstance(model, GPT):
            step = optimized.build_step(model, recipe or PLAIN)
            results.append(step.optimizer.clip(1.0))
            step.optimizer.step()
            for padding in (2, torch.zeros(2, dtype=torch.int64, device=device)):
                cached = CachedGPT(model.eval(), padding)
                logits = cached.extend(ids, last=1)[:, -1]
                results += [drawn(logits, **settings) for settings in SETTINGS.values()]
        else:
            readable = reference.build_step(model)
            results.append(clip_gradients([p.grad for p in model.parameters() if p.grad is not None], 1.0))
            readable.optimizer.step()
        assert {one.device.type for one in (*results, *model.parameters())} == {"cuda"}


# --- inside torch's own functions


def read_inside(call: Callable[[], object]) -> set[str]:
    """The operations inside a call on the CPU that take values to the host, each named by its two callers."""
    with torch.autograd.profiler.profile() as profile:
        call()
    found = set()
    for event in profile.function_events or ():
        if event.name.removeprefix("aten::") in READING:
            inner = event.cpu_parent
            outer = inner and inner.cpu_parent
            found.add(" > ".join(each.name.removeprefix("aten::") for each in (outer, inner) if each))
    return found


READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")
# On the CPU these read values; on CUDA kernels do the same on the device: assertions, the optimizer's step count.
OF_THE_CPU = {"_assert_async > item", "_fused_adamw_ > item"}


@pytest.mark.parametrize("recipe", [PLAIN, FULL.without("compile", "ddp")], ids=str)
def test_nothing_is_read_inside_the_functions_that_torch_has_for_these_steps(recipe: Recipe) -> None:
    model = optimized.build(CONFIG, recipe)
    step = optimized.build_step(model, recipe)
    assert read_inside(lambda: step(ids_of(2, 4), ids_of(2, 4))) <= OF_THE_CPU
    cached = CachedGPT(model.eval(), 2)

    def tokens() -> None:
        for settings in SETTINGS.values():
            drawn(cached.extend(ids_of(2, 1), last=1)[:, -1], **settings)

    assert read_inside(tokens) <= OF_THE_CPU


@pytest.mark.parametrize(
    "look", [float, bool, Tensor.item, Tensor.nonzero, torch.unique, lambda x: x[x > 0], lambda x: x.equal(x)]
)
def test_each_way_to_read_a_value_is_noticed(look: Callable[[Tensor], object]) -> None:
    assert read_inside(lambda: look(torch.ones(1)))


# --- ways to read a value


LOOKS: dict[str, Callable[[Tensor], object]] = {
    "item": Tensor.item,
    "float": float,
    "int": int,
    "bool": bool,
    "condition": lambda x: 1 if x > 0 else 2,
    "any in a condition": lambda x: 1 if (x > 0).any() else 2,
    "tolist": Tensor.tolist,
    "numpy": Tensor.numpy,
    "cpu": Tensor.cpu,
    "to the CPU": lambda x: x.to("cpu"),
    "to the CPU in another type": lambda x: x.to(device="cpu", dtype=torch.float64),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean index": lambda x: x[x > 0],
    "nonzero": Tensor.nonzero,
    "equal": lambda x: torch.equal(x, x),
    "unique": torch.unique,
    "allclose": lambda x: torch.allclose(x, x),
    "repeat_interleave": lambda x: x[None].repeat_interleave(x[None].long()),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_at_a_value_in_a_forward_pass_is_noticed_in_each_of_these_steps(
    look: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, readable = fast(PLAIN, "cpu", monkeypatch), fake(reference.GPT(CONFIG))
    with nothing_to_read():
        steps: list[Callable[[], object]] = [
            lambda: optimized.build_step(model, PLAIN)(ids_of(2, 4), targets_of(2, 4)),
            lambda: reference.build_step(readable)(ids_of(2, 4), targets_of(2, 4)),
            lambda: CachedGPT(model, 2).extend(ids_of(2, 1)),
        ]
    usual = reference.gpt.layer_norm

    def looking(x: Tensor, *rest: Any) -> Tensor:
        look(x.detach().sum())
        return usual(x, *rest)

    monkeypatch.setattr(reference.gpt, "layer_norm", looking)
    for step in steps:
        with pytest.raises(READS), nothing_to_read():
            step()


# --- on the device itself


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, an operation that makes the host wait for CUDA is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("recipe, parts_of", recipes("cuda"))
def test_on_cuda_the_host_waits_neither_in_a_training_nor_in_a_decoding_step(recipe: Recipe, parts_of: str) -> None:
    model = optimized.build(CONFIG, recipe, device=parts_of)
    ids, targets = ids_of(2, 4).to(parts_of), targets_of(2, 4).clamp(min=0).to(parts_of)
    for micro_batch in (None, 1):
        step = optimized.build_step(model.train(), recipe, micro_batch=micro_batch)
        step(ids, targets)  # compiles, and creates state
        with no_waiting():
            step(ids, targets)
    for padding in (2, torch.zeros(2, dtype=torch.int64, device=parts_of)):
        cached = CachedGPT(model.eval(), padding)
        for last in (False, True):
            with no_waiting() if last else ExitStack():
                for settings in SETTINGS.values():
                    logits = cached.extend(ids[:, :1], last=1)[:, -1]
                    drawn(logits, **settings)


@pytest.mark.gpu
def test_on_cuda_the_host_does_not_wait_for_a_step_of_the_reference_nor_for_its_batch() -> None:
    from reference.training.devices import send

    device = torch.device("cuda")
    step = reference.build_step(reference.GPT(CONFIG).to(device))
    batch = ids_of(2, 4), targets_of(2, 4).clamp(min=0)
    step(*(part.to(device) for part in batch))
    with no_waiting():
        sent = [send(part, device) for part in batch]
        step(*sent)
    for part, there in zip(batch, sent, strict=True):
        assert torch.equal(there.cpu(), part)
