"""Hugging Face's GPT-2 behind the protocol of this project."""

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

from optimized.compilation import compilers, vector_width
from reference.checkpoints.huggingface import PREFIX, from_hf, hf_config, to_hf
from reference.config import GPTConfig

COPIES: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Any]] = WeakKeyDictionary()  # see bfloat16_copy


class HuggingFaceGPT(nn.Module):
    """`transformers.GPT2LMHeadModel` with `model(ids)`, `model.loss` and a canonical state dict.

    Args:
        config: the shape; without biases those of Hugging Face are held at zero and not trained
        attention: transformers' `attn_implementation`, "eager" or "sdpa"
        draw: random weights; without, they are arbitrary until `load_state_dict`: gpt2 takes 8 s to draw
    """

    def __init__(self, config: GPTConfig, attention: str = "eager", draw: bool = True) -> None:
        super().__init__()
        self.config = config
        with nullcontext() if draw else no_init_weights():
            self.model = GPT2LMHeadModel._from_config(  # type: ignore[no-untyped-call]
                GPT2Config(**hf_config(config)), attn_implementation=attention
            )
        self.model.tie_weights()  # not done where none are drawn
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
        """Have torch.compile run the model and its head, where there is a compiler; the loss stays as it is."""
        if not compilers():
            return
        self.model.forward = torch.compile(self.model.forward, options=vector_width())

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the targets that are not -1, by torch, in the precision of the logits.

        Not by `labels=`: transformers 5 computes that loss in float32 even for a float64 model.
        """
        logits = self(ids)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The canonical layout, through `reference.checkpoints.huggingface.from_hf`."""
        state = self.model.state_dict()
        if not self.config.bias:  # gradients take this way too, and Hugging Face has them for its biases
            state = {n: t * 0.0 if n.endswith("bias") else t for n, t in state.items()}
        return from_hf(state, self.config)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Take over canonical weights, through `reference.checkpoints.huggingface.to_hf`; strict whatever is asked."""
        state = to_hf(dict(state_dict), self.config)
        return self.model.load_state_dict({**state, "lm_head.weight": state[PREFIX + "wte.weight"]}, assign=assign)


def greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """The most probable `new` tokens after ids (B, T), by transformers' generate with its cache: (B, T + new).

    A model under autocast is taken for one whose weights are bfloat16: autocast would convert them for each token.
    """
    inner = model if isinstance(model, HuggingFaceGPT) else bfloat16_copy(model)
    with run_as_python(inner):
        return library_text(inner, ids, new, do_sample=False)


@contextmanager
def run_as_python(model: HuggingFaceGPT) -> Iterator[None]:
    """Put aside what `compile_forward` has made: with a cache that grows it would be compiled for each length."""
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
        padding: (B,) int64, how many tokens at the left of each row are none; none of them anywhere if None
        settings: of generate, such as do_sample; what is not given has transformers' default, top_k = 50 among them
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    real = torch.ones_like(ids) if padding is None else (columns >= padding[:, None]).long()
    out: Tensor = model.model.generate(
        ids,
        attention_mask=real,
        max_new_tokens=new,
        min_new_tokens=new,
        use_cache=True,  # a new DynamicCache. The argument for one of our own got another name in transformers 5.24
        pad_token_id=0,
        eos_token_id=None,
        **settings,
    )
    return out


def bfloat16_copy(model: Any) -> HuggingFaceGPT:
    """The model inside an autocast one, with bfloat16 weights, run as Python; made anew when a weight has changed."""
    versions = tuple(p._version for p in model.parameters())
    kept = COPIES.get(model)
    if kept is None or kept[0] != versions:
        twin = copy.deepcopy(model.model)
        # what compile_forward has put there belongs to the original, and would run with its weights
        twin.model.__dict__.pop("forward", None)
        kept = versions, twin.bfloat16()
        COPIES[model] = kept
    found: HuggingFaceGPT = kept[1]
    return found
