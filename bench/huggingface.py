"""Hugging Face's GPT-2 behind the protocol of this project, with the optimizer of the library."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from reference.config import GPTConfig
from reference.hf import PREFIX, from_hf, hf_config, to_hf

COPIES: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Any]] = WeakKeyDictionary()  # see bfloat16_copy


class HuggingFaceGPT(nn.Module):
    """`transformers.GPT2LMHeadModel` with `model(ids)`, `model.loss` and a canonical state dict.

    Args:
        config: the shape; without biases those of Hugging Face are held at zero and not trained
        attention: transformers' `attn_implementation`, "eager" or "sdpa"
    """

    def __init__(self, config: GPTConfig, attention: str = "eager") -> None:
        super().__init__()
        self.config = config
        self.model = GPT2LMHeadModel._from_config(  # type: ignore[no-untyped-call]
            GPT2Config(**hf_config(config)), attn_implementation=attention
        )
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
        """Have torch.compile run the model, the head included; the loss stays as it is."""
        self.model.forward = torch.compile(self.model.forward)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the targets that are not -1, by torch, in the precision of the logits.

        Not by `labels=`: transformers 5 computes that loss in float32 even for a float64 model.
        """
        logits = self(ids)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The canonical layout, through `reference.hf.from_hf`."""
        state = self.model.state_dict()
        if not self.config.bias:  # gradients take this way too, and Hugging Face has them for its biases
            state = {n: t * 0.0 if n.endswith("bias") else t for n, t in state.items()}
        return from_hf(state, self.config)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Take over canonical weights, through `reference.hf.to_hf`; strict whatever is asked."""
        state = to_hf(dict(state_dict), self.config)
        return self.model.load_state_dict({**state, "lm_head.weight": state[PREFIX + "wte.weight"]}, assign=assign)


class LibraryStep:
    """A training step by torch's own parts; made by `build_library_step`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: float | Callable[[int], float],
        clip: float,
    ) -> None:
        self.model, self.optimizer, self.rate, self.clip = model, optimizer, rate, clip
        self.steps = 0
        self.gradient_norm = torch.tensor(0.0)

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Train on ids and targets, both (B, T) int64; returns the loss before the update, a scalar."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps) if callable(self.rate) else self.rate
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.model.loss(ids, targets)  # type: ignore[operator]  # nn.Module hides its methods
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach()


def build_library_step(
    model: nn.Module,
    learning_rate: float | Callable[[int], float] = 3e-4,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    clip: float = 1.0,
    fused: bool = False,
) -> LibraryStep:
    """The step that `reference.build_step` writes by hand, from `torch.optim.AdamW` and `clip_grad_norm_`."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # by name, where the reference goes by dimension: an oracle that shares a rule cannot notice that it is wrong
    decayed = [p for name, p in trained if not (name.endswith("bias") or "ln_" in name)]
    others = [p for name, p in trained if name.endswith("bias") or "ln_" in name]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=betas, eps=1e-8, fused=fused)
    return LibraryStep(model, optimizer, learning_rate, clip)


def greedy(model: Any, ids: Tensor, new: int) -> Tensor:
    """The most probable `new` tokens after ids (B, T), by transformers' generate with its cache: (B, T + new).

    A model under autocast is taken for one whose weights are bfloat16: autocast would convert them for each token.
    """
    inner = model if isinstance(model, HuggingFaceGPT) else bfloat16_copy(model)
    return library_text(inner, ids, new, do_sample=False)


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
        past_key_values=DynamicCache(config=model.model.config),
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
