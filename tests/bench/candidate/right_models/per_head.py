"""A right GPT-2 in the style of a lecture: a list of heads with three projections each, the norm written out."""

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = x.var(-1, keepdim=True, unbiased=False)
        std = torch.sqrt(var + 1e-5)
        return (x - mean) / std * self.gain + self.shift


class Head(nn.Module):
    def __init__(self, width, size, dropout):
        super().__init__()
        self.query = nn.Linear(width, size)
        self.key = nn.Linear(width, size)
        self.value = nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        T = x.shape[1]
        q, k, v = self.query(x), self.key(x), self.value(x)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        wei = wei.masked_fill(later, float("-inf"))
        wei = wei.softmax(dim=-1)
        wei = self.dropout(wei)
        return wei @ v


class MultiHeadAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = config.n_embd // config.n_head
        self.heads = nn.ModuleList([Head(config.n_embd, size, config.dropout) for _ in range(config.n_head)])
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        out = torch.cat([head(x) for head in self.heads], dim=-1)
        out = self.proj(out)
        return self.dropout(out)


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.act = nn.GELU(approximate="tanh")
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.down(self.act(self.up(x))))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.sa = MultiHeadAttention(config)
        self.ffwd = FeedForward(config)
        self.ln1 = Norm(config.n_embd)
        self.ln2 = Norm(config.n_embd)

    def forward(self, x):
        attended = self.sa(self.ln1(x))
        x = x + attended
        return x + self.ffwd(self.ln2(x))


class GPTLanguageModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token_embedding_table = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding_table = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.n_layer)])
        self.ln_f = Norm(config.n_embd)

    def forward(self, idx, targets=None):
        T = idx.shape[1]
        tok_emb = self.token_embedding_table(idx)
        places = torch.arange(T, device=idx.device)
        pos_emb = self.position_embedding_table(places)
        x = self.dropout(tok_emb + pos_emb)
        x = self.ln_f(self.blocks(x))
        table = self.token_embedding_table.weight
        logits = x @ table.T
        if targets is None:
            return logits, None
        flat, wanted = logits.flatten(0, 1), targets.flatten()
        loss = F.cross_entropy(flat, wanted, ignore_index=-1)
        return logits, loss


def build(config):
    return GPTLanguageModel(config)


def layout(state, config):
    """Canonical tensors in the names of this file."""
    names = {"wte": "token_embedding_table", "wpe": "position_embedding_table"}
    own = {"attn.c_proj": "sa.proj", "mlp.c_fc": "ffwd.up", "mlp.c_proj": "ffwd.down"}
    norms = {"ln_1": "ln1", "ln_2": "ln2", "ln_f": "ln_f"}
    out = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in names:
            out[f"{names[layer]}.{kind}"] = tensor
            continue
        kinds = {"weight": "gain", "bias": "shift"}
        if layer == "ln_f":
            out[f"ln_f.{kinds[kind]}"] = tensor
            continue
        _, block, part = layer.split(".", 2)
        if part in norms:
            out[f"blocks.{block}.{norms[part]}.{kinds[kind]}"] = tensor
        elif part in own:
            out[f"blocks.{block}.{own[part]}.{kind}"] = tensor
        else:
            word = {"q": "query", "k": "key", "v": "value"}[part[5]]
            for head, rows in enumerate(tensor.chunk(config.n_head)):
                out[f"blocks.{block}.sa.heads.{head}.{word}.{kind}"] = rows
    return out
