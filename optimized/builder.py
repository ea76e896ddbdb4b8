"""Make models and training steps of a recipe: the only file that maps rungs to implementations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from optimized.attention import ExplicitAttention, FlashAttention, HalvedAttention
from optimized.compilation import block_runner, compilers, eager
from optimized.distributed import Alone, DataParallel
from optimized.embedding import ExactTable, PaddedTable
from optimized.gemv import Compiled, RowProduct, in_parallel
from optimized.generation import cached_stream
from optimized.gpt import GPT, ModelParts
from optimized.loss import fused_loss, plain_loss
from optimized.memory import keep_freed_memory
from optimized.norm_mlp import FusedLayerNorm, FusedMLP
from optimized.optimizer import CanonicalAdamW, FusedAdamW
from optimized.precision import TF32, BFloat16, Exact
from optimized.qkv import FusedQKV, SeparateQKV
from optimized.recipe import Recipe, best
from optimized.step import TrainingStep
from reference.config import GPTConfig
from reference.gpt import GPT as ReferenceGPT
from reference.gpt import MLP, LayerNorm
from reference.sampling import stream
from reference.training.cpu import computes_bfloat16
from reference.training.defaults import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY


def choose_parts(recipe: Recipe, device: torch.device) -> ModelParts:
    """The implementation of each slot of the model."""
    return ModelParts(
        qkv=FusedQKV if "fused_qkv" in recipe else SeparateQKV,
        attention=choose_attention(recipe, device),
        norm=FusedLayerNorm if "fused_kernels" in recipe else LayerNorm,
        mlp=FusedMLP if "fused_kernels" in recipe else MLP,
        embedding=PaddedTable if "padded_vocab" in recipe else ExactTable,
        loss=fused_loss if "fused_loss" in recipe else plain_loss,
        precision=choose_precision(recipe, device),
        run=block_runner() if "compile" in recipe else eager,
        stream=cached_stream if "kv_cache" in recipe else stream,
    )


def choose_attention(recipe: Recipe, device: torch.device) -> type[nn.Module]:
    """The attention of a recipe on a device."""
    if "sdpa" not in recipe:
        return ExplicitAttention
    return HalvedAttention if device.type == "cpu" else FlashAttention


def choose_precision(recipe: Recipe, device: torch.device) -> Exact:
    """The precision of products; warns if it will be slow."""
    product = choose_row_product(recipe, device)
    inner = BFloat16(device, product) if "bf16" in recipe else Exact(product)
    if "bf16" in recipe and device.type == "cpu" and not computes_bfloat16():
        warnings.warn(
            "bf16: this CPU has no bfloat16 instructions and emulates them, which is slow; leave the rung out of the "
            "recipe for speed",
            stacklevel=3,
        )
    return TF32(inner) if "tf32" in recipe else inner


def choose_row_product(recipe: Recipe, device: torch.device) -> RowProduct | None:
    """The product of one row, for cached generation on a CPU; None for torch's own."""
    if device.type != "cpu":
        return None
    if "bf16" not in recipe:
        return in_parallel
    return Compiled() if "compile" in recipe and compilers() else None


def build(
    config: GPTConfig,
    recipe: Recipe | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> GPT:
    """Build the fast GPT of a recipe, in train mode.

    Args:
        config: the shape
        recipe: None for the best one on this device, in this dtype, at this shape
        state_dict: canonical weights; None draws the weights of `reference.GPT` from torch's global generator
        device: None for the CPU
        dtype: of the weights; None for float32

    Raises ValueError for a rung that the device or dtype does not have, and torch's RuntimeError for a state dict that
    does not fit.
    """
    device, dtype = torch.device(device or "cpu"), dtype or torch.float32
    if recipe is None:
        recipe = best(str(device), name_of(dtype), config)
    recipe.check(device.type, name_of(dtype))
    if "kept_memory" in recipe:
        keep_freed_memory()
    weights = ReferenceGPT(config).state_dict() if state_dict is None else dict(state_dict)
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        model = GPT(config, choose_parts(recipe, device)).to(device, dtype)
    model.load_state_dict(weights)
    model.recipe = recipe
    return model


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype in recipes: "float32"."""
    return str(dtype).removeprefix("torch.")


def build_step(
    model: nn.Module,
    recipe: Recipe | None = None,
    learning_rate: float | Callable[[int], float] = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    betas: tuple[float, float] = BETAS,
    clip: float = CLIP,
    micro_batch: int | None = None,
) -> TrainingStep:
    """Build a training step for a model of `build`.

    Args:
        model: trained in place, in its current mode (train or eval)
        recipe: chooses AdamW, and whether processes share the batch; None for the model's own
        learning_rate: a number, or a function of the step number counted from 0
        weight_decay, betas: see `reference.training.adamw.AdamW`
        clip: largest joint L2 norm of the gradients of the whole batch; infinity switches clipping off
        micro_batch: rows per forward pass, with gradient accumulation; None for the whole batch

    With the rung ddp, each process of the process group calls the step with its share of the batch. Without a process
    group, or with a single process, the rung has no effect.

    Raises ValueError for invalid settings.
    """
    if not clip > 0.0:
        raise ValueError(f"clip = {clip}: give a number above 0; inf switches clipping off")
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro-batch {micro_batch}: give 1 or more rows")
    if recipe is None:
        weight = next(model.parameters())
        recipe = model.recipe if isinstance(model, GPT) else best(str(weight.device), name_of(weight.dtype))
    optimizer = (FusedAdamW if "fused_adamw" in recipe else CanonicalAdamW)(model, weight_decay, betas)
    device = next(model.parameters()).device.type
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several and "ddp" in recipe and device not in ("cpu", "cuda"):
        raise ValueError(f"the rung ddp and the device {device} do not go together: choose the device cpu or cuda")
    exchange = DataParallel(model) if several and "ddp" in recipe else Alone(model)
    precision: Exact = model.precision if isinstance(model, GPT) else Exact()
    return TrainingStep(model, optimizer, learning_rate, clip, precision, exchange, micro_batch)
