"""GPT-2s as users write them, each of another structure, and one whose every step can be done wrong.

B batch, T time, C width, H heads, D head width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference import GPTConfig

Weights = dict[str, Tensor]


class PerHead(nn.Module):
    """A list of heads, each with projections of its own, whose outputs are concatenated."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, D = config.n_embd, config.n_embd // config.n_head
        self.token, self.position = nn.Embedding(config.vocab_size, C), nn.Embedding(config.block_size, C)
        self.layers = nn.ModuleList()
        for _ in range(config.n_layer):
            heads = nn.ModuleList(
                nn.ModuleDict({name: nn.Linear(C, D) for name in ("query", "key", "value")})
                for _ in range(config.n_head)
            )
            parts = {"heads": heads, "out": nn.Linear(C, C), "up": nn.Linear(C, 4 * C), "down": nn.Linear(4 * C, C)}
            norms = {"first": nn.LayerNorm(C), "second": nn.LayerNorm(C)}
            self.layers.append(nn.ModuleDict({**parts, **norms}))
        self.norm = nn.LayerNorm(C)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        T = ids.shape[1]
        x = self.token(ids) + self.position.weight[:T]
        mask = torch.full((T, T), -math.inf, dtype=x.dtype, device=x.device).triu(1)
        for layer in self.layers:
            y, outputs = layer["first"](x), []
            for head in layer["heads"]:
                scores = head["query"](y) @ head["key"](y).mT * head["query"].out_features ** -0.5
                outputs.append((scores + mask).softmax(-1) @ head["value"](y))
            x = x + layer["out"](torch.cat(outputs, dim=-1))
            x = x + layer["down"](F.gelu(layer["up"](layer["second"](x)), approximate="tanh"))
        return {"logits": F.linear(self.norm(x), self.token.weight)}


def per_head_layout(state: Weights, config: GPTConfig) -> Weights:
    out = {"token.weight": state["wte.weight"], "position.weight": state["wpe.weight"]}
    for kind in ("weight", "bias"):
        out[f"norm.{kind}"] = state[f"ln_f.{kind}"]
        for i in range(config.n_layer):
            ours, theirs = f"h.{i}.", f"layers.{i}."
            for word, letter in (("query", "q"), ("key", "k"), ("value", "v")):
                for h, part in enumerate(state[f"{ours}attn.{letter}_proj.{kind}"].chunk(config.n_head)):
                    out[f"{theirs}heads.{h}.{word}.{kind}"] = part
            pairs = {"out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj", "first": "ln_1", "second": "ln_2"}
            out |= {f"{theirs}{name}.{kind}": state[f"{ours}{own}.{kind}"] for name, own in pairs.items()}
    return out


class Interleaved(nn.Module):
    """One projection whose output holds the q, k and v of a head next to each other, as GPT-NeoX has it; time first."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.H = config.n_head
        self.embed, self.where = nn.Embedding(config.vocab_size, C), nn.Embedding(config.block_size, C)
        for i in range(config.n_layer):
            for name, size in (("qkv", (C, 3 * C)), ("dense", (C, C)), ("fc1", (C, 4 * C)), ("fc2", (4 * C, C))):
                self.add_module(f"{name}{i}", nn.Linear(*size))
            self.add_module(f"norm{i}a", nn.LayerNorm(C))
            self.add_module(f"norm{i}b", nn.LayerNorm(C))
        self.final = nn.LayerNorm(C)
        self.depth = config.n_layer

    def forward(self, ids: Tensor, labels: Any = None) -> tuple[Tensor, None]:
        x = (self.embed(ids) + self.where(torch.arange(ids.shape[1]))).transpose(0, 1)  # (T, B, C)
        T, B, C = x.shape
        for i in range(self.depth):
            part = lambda name, i=i: getattr(self, name.format(i))  # noqa: E731
            qkv = part("qkv{}")(part("norm{}a")(x)).view(T, B * self.H, 3, C // self.H)
            q, k, v = (one.transpose(0, 1) for one in qkv.unbind(2))  # (B H, T, D)
            bias = torch.zeros(T, T, dtype=x.dtype).masked_fill(torch.ones(T, T).triu(1) == 1, -math.inf)
            scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=(C // self.H) ** -0.5)
            y = torch.bmm(F.softmax(scores, dim=-1), v).transpose(0, 1).reshape(T, B, C)
            x = x + part("dense{}")(y)
            hidden = part("fc1{}")(part("norm{}b")(x))
            x = x + part("fc2{}")(F.gelu(hidden, approximate="tanh"))
        return (self.final(x) @ self.embed.weight.t()).transpose(0, 1), None


def interleaved_layout(state: Weights, config: GPTConfig) -> Weights:
    C, H = config.n_embd, config.n_head
    out = {"embed.weight": state["wte.weight"], "where.weight": state["wpe.weight"]}
    for kind in ("weight", "bias"):
        out[f"final.{kind}"] = state[f"ln_f.{kind}"]
        for i in range(config.n_layer):
            parts = [state[f"h.{i}.attn.{n}_proj.{kind}"].view(H, C // H, -1) for n in "qkv"]
            fused = torch.stack(parts, dim=1).reshape(3 * C, -1)
            out[f"qkv{i}.{kind}"] = fused if kind == "weight" else fused.squeeze(1)
            pairs = {"dense{}": "attn.c_proj", "fc1{}": "mlp.c_fc", "fc2{}": "mlp.c_proj"}
            pairs |= {"norm{}a": "ln_1", "norm{}b": "ln_2"}
            out |= {f"{name.format(i)}.{kind}": state[f"h.{i}.{own}.{kind}"] for name, own in pairs.items()}
    return out


class Attention(nn.Module):
    """Causal attention, explicit, each step a method that a mutant replaces."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer = config.n_head, layer
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.c_attn(x).split(x.shape[-1], dim=2)

    def split(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) * (1.0 / math.sqrt(k.size(-1)))

    def mask(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return scores.masked_fill(torch.tril(torch.ones(T, T)) == 0, float("-inf"))

    def normalise(self, scores: Tensor) -> Tensor:
        return F.softmax(self.mask(scores), dim=-1)

    def merge(self, y: Tensor) -> Tensor:
        B, H, T, D = y.shape
        return y.transpose(1, 2).contiguous().view(B, T, H * D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(part) for part in self.parts(x))
        return self.c_proj(self.merge(self.normalise(self.score(q, k)) @ v))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activate(self.c_fc(x)))


class Norm(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(config), Attention(config, layer)
        self.ln_2, self.mlp = Norm(config), MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Written(nn.Module):
    """nanoGPT's structure, names and layout; `change(cls, name, function)` makes a mutant of it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.transformer.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.transformer.h = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.transformer.ln_f = Norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def positions(self, T: int) -> Tensor:
        return torch.arange(T)

    def embed(self, ids: Tensor) -> Tensor:
        return self.transformer.wte(ids) + self.transformer.wpe(self.positions(ids.shape[1]))

    def finish(self, x: Tensor) -> Tensor:
        return self.lm_head(self.transformer.ln_f(x))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.transformer.h:
            x = block(x)
        return self.finish(x)


def mutant(kind: type[nn.Module], layers: range | None = None, **methods: Any) -> Any:
    """A `build` of Written whose modules of one kind have other methods; in all layers, or in some."""

    def build(config: GPTConfig) -> Written:
        model = Written(config)
        for name, module in model.named_modules():
            number = [int(part) for part in name.split(".") if part.isdigit()]
            if isinstance(module, kind) and (layers is None or not number or number[0] in layers):
                for method, function in methods.items():
                    setattr(module, method, function.__get__(module))
        return model

    return build
