"""The model that a user's generator is given: the reference GPT, with the call, cache and masks of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.numerics.inputs import sharp_state_dict
from reference.config import GPTConfig
from reference.gpt import GPT

# A block shorter than some prompts; dropout strong enough to change the text where it is active.
CONFIG = GPTConfig(block_size=16, vocab_size=53, n_layer=2, n_head=4, n_embd=32, dropout=0.1)
TIED = {0: 11, 1: 23, 2: 37, 3: 41}  # with tied tokens, each first one has the second one's row in the token table
UNSET: Any = object()  # an argument that was not given, where None begins a cache
# Of sharp weights: with gains of both signs and small last biases, no token is probable everywhere or repeats itself; a
# smaller token table leaves something to draw, larger positions show.
FACTORS = {
    "wte.weight": 0.5,
    "wpe.weight": 2.0,
    "ln_f.bias": 0.1,
    "h.1.attn.c_proj.bias": 0.1,
    "h.1.mlp.c_proj.bias": 0.1,
}

Keys = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer, (B, H, S, D)


class Past(tuple[tuple[Tensor, Tensor], ...]):
    """Keys and values of earlier tokens, by layer: (B, H, S, D) each."""

    def get_seq_length(self) -> int:
        """The number of earlier tokens, as transformers' caches say it."""
        return int(self[0][0].shape[2])


class Output(tuple[Any, ...]):
    """A call's result for code that reads `.logits`: also a tuple of logits and the cache, or None."""

    @property
    def logits(self) -> Tensor:
        """(B, T, V)."""
        found: Tensor = self[0]
        return found

    @property
    def past_key_values(self) -> Past | None:
        """The cache, if it was asked for."""
        found: Past | None = self[1]
        return found


@dataclass
class Calls:
    """What a generator did with its model."""

    with_gradients: bool = False
    dropout: bool = False  # in train mode
    one_token: int = 0  # calls with a cache and a single token
    over_block: bool = False  # more tokens than the block, which were refused


@dataclass(frozen=True)
class Form:
    """What `model(ids)` returns."""

    name: str
    words: str


FORMS = (
    Form("logits", "logits"),
    Form("pair", "(logits, None), as nanoGPT's"),
    Form("object", "an object with .logits, as transformers'"),
)


class UserGPT(GPT):
    """The reference GPT in float64.

    `model(ids)` returns logits (B, T, V), or what `form` says. A call with use_cache, past_key_values, attention_mask
    or position_ids returns an object with .logits and .past_key_values; the next call takes these, and its positions go
    on where the cache ends. attention_mask (B, S) is 1 for real tokens; as in transformers' GPT-2, it does not move
    positions: position_ids do.
    """

    def __init__(self, seed: int = 0, tied: bool = False) -> None:
        super().__init__(CONFIG)
        self.double()
        weights = sharp_state_dict(CONFIG, seed)
        weights["ln_f.weight"] = (weights["ln_f.weight"] - 1.0) / 0.3
        for name, factor in FACTORS.items():
            weights[name] *= factor
        for one, other in TIED.items() if tied else ():
            weights["wte.weight"][one] = weights["wte.weight"][other]
        self.load_state_dict(weights)
        self.eval()
        self.form = FORMS[0].name
        self.calls = Calls()

    def forward(  # type: ignore[override]  # with the names of transformers
        self, input_ids: Tensor, past_key_values: Any = UNSET, **options: Any
    ) -> Any:
        """See the class."""
        plain = past_key_values is UNSET and not options
        past = None if past_key_values is UNSET else past_key_values
        logits, keys = self.answer(input_ids, past, **options)
        if not plain or self.form == "object":
            return Output((logits, keys if options.get("use_cache") or past is not None else None))
        return (logits, None) if self.form == "pair" else logits

    def answer(
        self,
        ids: Tensor,
        past: Past | None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Past]:
        """Logits (B, T, V), and keys and values of all tokens."""
        before = 0 if past is None else past[0][0].shape[2]
        width, block = before + ids.shape[-1], self.config.block_size
        if width > block and position_ids is None:
            self.calls.over_block = True
            raise ValueError(f"a sequence of {width} tokens: this model takes 1 to {block} (its block size)")
        self.calls.with_gradients |= torch.is_grad_enabled()
        self.calls.dropout |= self.training
        self.calls.one_token += past is not None and ids.shape[-1] == 1
        if position_ids is None:
            position_ids = torch.arange(before, width)
        logits, keys = self.read(ids, position_ids, causal(before, width, attention_mask), past)
        return logits, Past(keys)

    def read(self, ids: Tensor, positions: Tensor, mask: Tensor, past: Keys | None = None) -> tuple[Tensor, Keys]:
        """Logits (B, T, V), and keys and values of all tokens.

        Args:
            ids: (B, T)
            positions: (T) or (B, T)
            mask: bool, (B or 1, 1, T, S): which of the S tokens, earlier ones included, a token attends to
            past: keys and values of earlier tokens
        """
        x = self.dropout(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        kept = []
        for layer, block in enumerate(self.h):
            attention: Any = block.attn
            normed = block.ln_1(x)  # type: ignore[operator]
            q, k, v = (
                attention.heads(project(normed)) for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            if past is not None:
                k, v = (torch.cat([old, new], dim=2) for old, new in zip(past[layer], (k, v), strict=True))
            kept.append((k, v))
            scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
            y = attention.attention_dropout(scores.softmax(dim=-1)) @ v  # (B, H, T, D)
            y = y.transpose(1, 2).reshape(x.shape)  # (B, T, C)
            x = x + attention.residual_dropout(attention.c_proj(y))
            x = x + block.mlp(block.ln_2(x))  # type: ignore[operator]
        return self.ln_f(x) @ self.wte.weight.T, tuple(kept)


def causal(before: int, width: int, attention_mask: Tensor | None) -> Tensor:
    """Which tokens attend to which, bool (B or 1, 1, T, S): no later one and no padding, except padding to itself."""
    columns = torch.arange(width)
    rows = columns[before:, None]
    mask = (columns <= rows)[None, None]
    if attention_mask is None:
        return mask
    if attention_mask.dim() != 2 or attention_mask.shape[1] != width:
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)} for {width} tokens, those of the cache included: "
            "give (B, tokens)"
        )
    real = attention_mask.bool()[:, None, None]
    return mask & real | (columns == rows)
