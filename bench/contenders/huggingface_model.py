"""Hugging Face's GPT-2 with this project's interface."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.initialization import no_init_weights

from bench.contenders.torch_step import library_loss
from optimized.compilation import compilers, vector_width
from reference.checkpoints.huggingface import PREFIX, from_hf, hf_config, to_hf
from reference.config import GPTConfig

COPIES: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Any]] = WeakKeyDictionary()  # see bfloat16_copy


class HuggingFaceGPT(nn.Module):
    """`transformers.GPT2LMHeadModel` with `model(ids)`, `model.loss` and a canonical state dict.

    Args:
        config: the shape; if it has no biases, Hugging Face's are zero and not trained
        attention: transformers' `attn_implementation`, "eager" or "sdpa"
        draw: whether to draw random weights, which takes 8 s for gpt2; if not, load weights by `load_state_dict`
    """

    def __init__(self, config: GPTConfig, attention: str = "eager", draw: bool = True) -> None:
        super().__init__()
        self.config = config
        with nullcontext() if draw else no_init_weights():
            self.model = GPT2LMHeadModel._from_config(  # type: ignore[no-untyped-call]
                GPT2Config(**hf_config(config)), attn_implementation=attention
            )
        self.model.tie_weights()  # no_init_weights skips it
        if self.model.config._attn_implementation != attention:
            raise ValueError(f"transformers chose {self.model.config._attn_implementation!r}, not {attention!r}")
        if not config.bias:
            for name, parameter in self.model.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(parameter).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V)."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    def compile_forward(self) -> None:
        """Compile the model and its head by torch.compile, if there is a compiler; not the loss."""
        if not compilers():
            return
        self.model.forward = torch.compile(self.model.forward, options=vector_width())

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over targets other than -1, by torch, in at least float32.

        Not by `labels=`: transformers 5 computes that loss in float32 even for a float64 model.
        """
        return library_loss(self(ids), targets)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The canonical layout, through `reference.checkpoints.huggingface.from_hf`."""
        state = self.model.state_dict()
        if not self.config.bias:  # gradients pass here too, and Hugging Face's biases have some
            state = {n: t * 0.0 if n.endswith("bias") else t for n, t in state.items()}
        return from_hf(state, self.config)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load canonical weights, through `reference.checkpoints.huggingface.to_hf`; always strict."""
        state = to_hf(dict(state_dict), self.config)
        return self.model.load_state_dict({**state, "lm_head.weight": state[PREFIX + "wte.weight"]}, assign=assign)


def greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """The most probable `new` tokens after ids (B, T), by transformers' generate with its cache: (B, T + new).

    A model under autocast generates with a bfloat16 copy of its weights: autocast would convert them for each token.
    """
    inner = model if isinstance(model, HuggingFaceGPT) else bfloat16_copy(model)
    with run_as_python(inner):
        return library_text(inner, ids, new, do_sample=False)


@contextmanager
def run_as_python(model: HuggingFaceGPT) -> Iterator[None]:
    """Inside, run without the compiled forward: a growing cache would recompile it for each length."""
    compiled = model.model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if compiled is not None:
            model.model.forward = compiled


def library_text(
    model: HuggingFaceGPT, ids: Tensor, new: int, padding: Tensor | None = None, **settings: Any
) -> Tensor:
    """Exactly `new` tokens after ids (B, T), by transformers' generate with its cache: (B, T + new).

    Args:
        padding: (B,) int64, the left padding tokens of each row; None for no padding
        settings: of generate, such as do_sample; transformers' defaults apply, top_k = 50 among them
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    real = torch.ones_like(ids) if padding is None else (columns >= padding[:, None]).long()
    out: Tensor = model.model.generate(
        ids,
        attention_mask=real,
        max_new_tokens=new,
        min_new_tokens=new,
        use_cache=True,  # a new DynamicCache; transformers 5.24 renamed the argument for a cache of one's own
        pad_token_id=0,
        eos_token_id=None,
        **settings,
    )
    return out


def bfloat16_copy(model: Any) -> HuggingFaceGPT:
    """An autocast model's inner model with bfloat16 weights, not compiled; copied again when a weight has changed."""
    versions = tuple(p._version for p in model.parameters())
    kept = COPIES.get(model)
    if kept is None or kept[0] != versions:
        twin = copy.deepcopy(model.model)
        # the compiled forward is bound to the original and would run with its weights
        twin.model.__dict__.pop("forward", None)
        kept = versions, twin.bfloat16()
        COPIES[model] = kept
    found: HuggingFaceGPT = kept[1]
    return found
