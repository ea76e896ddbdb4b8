# ruff: noqa: E501
"""Right generators in several styles, one-line mistakes in two of them, and words of the cause that must be named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EXAMPLE = (Path(__file__).parents[3] / "examples" / "my_generate.py").read_text()

# nanoGPT's, with a temperature of 0
PLAIN = """
import torch
from torch.nn import functional as F

@torch.no_grad()
def generate(model, idx, max_new_tokens, temperature=1.0, top_k=None):
    start = idx.size(1)
    for _ in range(max_new_tokens):
        idx_cond = idx if idx.size(1) <= model.config.block_size else idx[:, -model.config.block_size:]
        logits, _ = model(idx_cond)
        logits = logits[:, -1, :]
        if temperature == 0:
            idx = torch.cat((idx, logits.argmax(-1, keepdim=True)), dim=1)
            continue
        logits = logits / temperature
        if top_k is not None:
            v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
            logits[logits < v[:, [-1]]] = -float('Inf')
        probs = F.softmax(logits, dim=-1)
        idx_next = torch.multinomial(probs, num_samples=1)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx
"""

RIGHT = {
    "example": EXAMPLE,
    "plain": PLAIN,
    "mingpt": """
import torch
from torch.nn import functional as F

@torch.no_grad()
def generate(model, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None):
    for _ in range(max_new_tokens):
        logits, _ = model(idx[:, -model.config.block_size:])
        logits = logits[:, -1, :] / temperature
        if top_k is not None:
            v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
            logits[logits < v[:, [-1]]] = -float('Inf')
        probs = F.softmax(logits, dim=-1)
        idx_next = torch.multinomial(probs, 1) if do_sample else probs.topk(1).indices
        idx = torch.cat((idx, idx_next), dim=1)
    return idx
""",
    "raschka": """
import torch

def generate(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None, eos_id=None):
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])
        logits = logits[:, -1, :]
        if top_k is not None:
            top_logits, _ = torch.topk(logits, min(top_k, logits.shape[-1]))
            least = top_logits[:, -1:]
            logits = torch.where(logits < least, torch.tensor(float("-inf"), dtype=logits.dtype), logits)
        if temperature > 0.0:
            probs = torch.softmax(logits / temperature, dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)
        else:
            idx_next = torch.argmax(logits, dim=-1, keepdim=True)
        if idx_next.numel() == 1 and idx_next == eos_id:
            break
        idx = torch.cat((idx, idx_next), dim=1)
    return idx
""",
    "cached": """
import torch

@torch.no_grad()
def generate(model, ids, max_new_tokens, temperature=1.0):
    past = None
    for _ in range(max_new_tokens):
        if past is None or ids.size(1) > model.config.block_size:
            past, seen = None, ids[:, -model.config.block_size:]
        else:
            seen = ids[:, -1:]
        logits, past = model(seen, past_key_values=past, use_cache=True)
        if temperature == 0:
            new = logits[:, -1].argmax(-1, keepdim=True)
        else:
            new = torch.multinomial((logits[:, -1] / temperature).softmax(-1), 1)
        ids = torch.cat([ids, new], dim=1)
    return ids
""",
    # a model of its own, with the weights of the one that is given and a cache of fixed size
    "own_cache": """
import torch
from torch.nn import functional as F

class Cached:
    def __init__(self, model, rows):
        self.c, self.w = model.config, model.state_dict()
        C, H = self.c.n_embd, self.c.n_head
        room = (self.c.n_layer, rows, H, self.c.block_size, C // H)
        self.k, self.v = torch.zeros(room, dtype=torch.float64), torch.zeros(room, dtype=torch.float64)
        self.begin = 0

    def linear(self, name, x):
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"])

    def attend(self, i, x):
        B, T, C = x.shape
        q, k, v = (self.linear(f"h.{i}.attn.{n}_proj", x).view(B, T, self.c.n_head, -1).transpose(1, 2) for n in "qkv")
        end = self.begin + T
        self.k[i][:, :, self.begin : end] = k
        self.v[i][:, :, self.begin : end] = v
        keys, values = self.k[i][:, :, :end], self.v[i][:, :, :end]
        y = F.scaled_dot_product_attention(q, keys, values, is_causal=T > 1)
        return self.linear(f"h.{i}.attn.c_proj", y.transpose(1, 2).reshape(B, T, C))

    def logits(self, ids):
        positions = torch.arange(self.begin, self.begin + ids.shape[1])
        x = self.w["wte.weight"][ids] + self.w["wpe.weight"][positions]
        for i in range(self.c.n_layer):
            x = x + self.attend(i, self.norm(f"h.{i}.ln_1", x))
            hidden = self.linear(f"h.{i}.mlp.c_fc", self.norm(f"h.{i}.ln_2", x))
            x = x + self.linear(f"h.{i}.mlp.c_proj", F.gelu(hidden, approximate="tanh"))
        self.begin += ids.shape[1]
        return (self.norm("ln_f", x) @ self.w["wte.weight"].T)[:, -1]

@torch.no_grad()
def generate(model, ids, max_new_tokens, temperature=1.0):
    cached = Cached(model, len(ids))
    logits = cached.logits(ids[:, -cached.c.block_size:])
    for _ in range(max_new_tokens):
        if temperature == 0:
            new = logits.argmax(-1, keepdim=True)
        else:
            new = torch.multinomial((logits / temperature).softmax(-1), 1)
        ids = torch.cat([ids, new], dim=1)
        if cached.begin == cached.c.block_size:  # full: begin again with the last tokens
            cached = Cached(model, len(ids))
            logits = cached.logits(ids[:, -cached.c.block_size:])
        else:
            logits = cached.logits(new)
    return ids
""",
    "greedy_only": """
import torch

@torch.no_grad()
def generate(model, idx, max_new_tokens):
    for _ in range(max_new_tokens):
        logits = model(idx[:, -model.config.block_size:]).logits
        idx = torch.cat((idx, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return idx
""",
    "sampled_only": """
import torch

@torch.no_grad()
def generate(model, idx, n):
    for _ in range(n):
        p = model(idx[:, -model.config.block_size:])[:, -1].softmax(-1)
        idx = torch.cat((idx, torch.distributions.Categorical(p).sample()[:, None]), dim=1)
    return idx
""",
    "stream": """
import torch

@torch.no_grad()
def generate(model, ids, new_tokens, temperature, generator):
    for _ in range(new_tokens):
        logits = model(ids[:, -model.config.block_size:])[:, -1]
        p = (logits / max(temperature, 1e-5)).softmax(-1)
        new = torch.multinomial(p, 1, generator=generator)
        ids = torch.cat([ids, new], dim=1)
        yield new
""",
    "one_prompt": """
import torch

@torch.no_grad()
def generate(model, tokens, max_new_tokens, temperature=1.0, top_k=50):
    tokens = tokens.flatten().tolist()
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([tokens[-model.config.block_size:]]))[0, -1]
        if temperature == 0:
            tokens.append(int(logits.argmax()))
            continue
        p = (logits / temperature).softmax(-1)
        values, places = p.topk(min(top_k, len(p)))
        tokens.append(int(places[torch.multinomial(values, 1)]))
    return tokens
""",
    "prompts": """
import torch

@torch.no_grad()
def generate(model, prompts, max_new_tokens, temperature=0.0):
    return [one(model, prompt, max_new_tokens, temperature) for prompt in prompts]

def one(model, prompt, n, temperature):
    text = list(prompt)
    for _ in range(n):
        logits = model(torch.tensor([text[-model.config.block_size:]]))[0, -1]
        text.append(int(logits.argmax() if temperature == 0 else torch.multinomial((logits / temperature).softmax(-1), 1)))
    return text[len(prompt):]
""",
}
# right, with another use of the random stream
OTHER_STREAM = {
    "exponential": ("torch.multinomial(probs, num_samples=1)",
                    "torch.argmax(probs / torch.empty_like(probs).exponential_(1), dim=-1, keepdim=True)"),
    "noise_in_float32": (
        "torch.multinomial(probs, num_samples=1)",
        "(probs.log() - (-torch.rand(probs.shape).log()).log()).argmax(-1, keepdim=True)",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """A change of a right generator."""

    base: str
    before: str
    after: str
    cause: str  # words of the mistake
    bug: int | None = None  # number in BUGS.md
    also: tuple[str, str] | None = None  # another change that the mistake takes

    def source(self) -> str:
        """The file with the mistake."""
        text = RIGHT[self.base]
        for before, after in ((self.before, self.after), *([self.also] if self.also else [])):
            assert text.count(before) == 1, (before, text.count(before))
            text = text.replace(before, after)
        return text


POSITIONS = "positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -seen.shape[1] :]"
MULTINOMIAL = "return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)"
LIMIT = 'logits = logits.masked_fill(logits < kth, float("-inf"))'
BEFORE = "before = descending.cumsum(dim=-1) - descending"
NEXT = "idx_next = torch.multinomial(probs, num_samples=1)"
CROPPED = "idx[:, -model.config.block_size:]"

EDITS = {
    # what the model sees
    "wrong_end": Edit("plain", CROPPED, "idx[:, :model.config.block_size]", "the wrong end"),
    "one_fewer": Edit("mingpt", CROPPED, "idx[:, 1 - model.config.block_size:]", "one token fewer than the block"),
    "never_appended": Edit("plain", "model(idx_cond)", "model(idx[:, :start][:, -model.config.block_size:])", "not appended"),
    "not_passed_on": Edit("cached", "past_key_values=past, ", "", "the newest token alone"),
    "read_twice": Edit("cached", "past, seen = None, ids[:, -model.config.block_size:]",
                       "seen = ids[:, -model.config.block_size:]\n"
                       "            past = model(seen, use_cache=True)[1] if ids.size(1) < model.config.block_size else None\n"
                       "            seen = seen if past is None else seen[:, -1:]",
                       "the prompt's last token is read twice"),
    "no_offset": Edit("example", POSITIONS, POSITIONS + "\n        positions = positions if past is None else positions * 0",
                      "every new token has position 0", 14),
    "offset_by_one": Edit("example", POSITIONS, POSITIONS + "\n        positions = positions + (past is not None)",
                          "one too many", 14),
    "offset_of_new": Edit("example", POSITIONS,
                          POSITIONS + "\n        positions = positions if past is None else positions * 0 + _ - 1",
                          "do not count the prompt", 14),
    "mask_at_the_left": Edit("own_cache", "is_causal=T > 1", "is_causal=True", "the first token alone: is_causal", 13),
    "empty_slots": Edit("own_cache", "keys, values = self.k[i][:, :, :end], self.v[i][:, :, :end]",
                        "keys, values = (self.k[i], self.v[i]) if self.begin else (k, v)", "empty slots too", 15),
    "never_written": Edit("own_cache", "        self.k[i][:, :, self.begin : end] = k\n",
                          "        if self.begin == 0: self.k[i][:, :, self.begin : end] = k\n",
                          "not written to the cache", 15,
                          ("        self.v[i][:, :, self.begin : end] = v\n",
                           "        if self.begin == 0: self.v[i][:, :, self.begin : end] = v\n")),
    "one_slot_late": Edit("own_cache", "self.k[i][:, :, :end], self.v[i][:, :, :end]",
                          "*(part[i][:, :, : self.begin or end] for part in (self.k, self.v)),",
                          "do not attend to themselves", 15),
    "own_positions": Edit("own_cache", "torch.arange(self.begin, self.begin + ids.shape[1])",
                          "torch.arange(0, ids.shape[1])", "every new token has position 0", 14),
    "divides_by_0": Edit("plain", "if temperature == 0:", "if temperature < 0:", "it raises at temperature 0", 37),
    "padded_ids": Edit("own_cache", "self.c, self.w = model.config, model.state_dict()",
                       "self.c, self.w = model.config, dict(model.state_dict())\n"
                       "        self.w['wte.weight'] = F.pad(self.w['wte.weight'], (0, 0, 0, 11))",
                       "ids outside the vocabulary", 37),
    "dropout": Edit("example", "past = None\n    for", "past = None\n    model.train()\n    for", "dropout takes part", 16),
    # padding
    "padding_seen": Edit("example", "attention_mask=mask, position_ids", "position_ids", "padding is not masked"),
    "padding_counted": Edit("example", ", position_ids=positions", "", "positions count the padding"),
    "padding_ignored": Edit("example", "attention_mask=mask, position_ids=positions, ", "", "neither masked nor left out"),
    # the logits
    "before_last": Edit("plain", "logits[:, -1, :]", "logits[:, -2, :]", "the position before the last"),
    "first": Edit("plain", "logits[:, -1, :]", "logits[:, 0, :]", "the first position"),
    # the distribution
    "multiplies": Edit("example", "logits = logits / temperature", "logits = logits * temperature", "multiplies"),
    "no_temperature": Edit("example", "logits = logits / temperature", "pass", "the temperature has no effect"),
    "temperature_last": Edit("example", "logits = logits / temperature", "pass", "the temperature comes after top-p",
                             also=(MULTINOMIAL, MULTINOMIAL.replace("logits.", "(logits / temperature)."))),
    "softmax_twice": Edit("plain", NEXT, "idx_next = torch.multinomial(probs.softmax(-1), 1)", "softmax is taken twice"),
    "one_more": Edit("example", "min(top_k, ", "min(top_k + 1, ", "top-k keeps k + 1", 36),
    "not_the_kth": Edit("example", "logits < kth", "logits <= kth", "drops the k-th token", 36),
    "zeros": Edit("example", LIMIT, LIMIT.replace('float("-inf")', "0.0"), "sets other logits to 0"),
    "ties": Edit("plain", "logits[logits < v[:, [-1]]] = -float('Inf')",
                 "logits = torch.full_like(logits, -float('Inf')).scatter(1, _, v)", "tie with the k-th", 36),
    "no_top_k": Edit("example", LIMIT, "pass", "top-k has no effect"),
    "reaches_p": Edit("example", BEFORE, "before = descending.cumsum(dim=-1).roll(0); before[:, 0] = 0",
                      "drops the token that reaches p", 36),
    "one_p_more": Edit("example", BEFORE, "before = (descending.cumsum(-1) - descending).roll(1, -1); before[:, 0] = 0",
                       "one token too many", 36),
    "least": Edit("example", "sort(dim=-1, descending=True)", "sort(dim=-1)", "least probable"),
    "no_top_p": Edit("example", "if top_p is not None:", "if top_p is None:\n        top_p = 1.0", "top-p has no effect"),
    # the draw
    "argmax": Edit("plain", NEXT, "idx_next = probs.argmax(-1, keepdim=True)", "the most probable token is taken"),
    "samples": Edit("example", "return logits.argmax(dim=-1, keepdim=True)", "temperature = 1.0",
                    "a token is drawn where", 37),
    "shared": Edit("plain", NEXT, "idx_next = torch.multinomial(probs[:1], 1).expand(len(idx), 1)",
                   "the first row's drawn tokens", 38),
    "shared_first": Edit("plain", NEXT, "idx_next = torch.multinomial(probs[:1] if idx.size(1) == start else probs, 1)"
                         ".expand(len(idx), 1)", "share their first drawn token", 38),
    "not_given": Edit("example", ", generator=generator)", ")", "the generator that was given is not used"),
    "seeds": Edit("plain", "    for _ in range", "    torch.manual_seed(1337)\n    for _ in range", "seeds torch with 1337"),
    "seeds_each": Edit("example", "if top_k is not None:", "if generator is not None:\n"
                       "        generator.manual_seed(generator.initial_seed())\n    if top_k is not None:",
                       "seeded again before every token"),
    # the result
    "more": Edit("plain", "range(max_new_tokens)", "range(max_new_tokens + 1)", "one token more"),
    "fewer": Edit("plain", "range(max_new_tokens)", "range(1, max_new_tokens)", "one token fewer"),
    "total": Edit("plain", "range(max_new_tokens)", "range(max_new_tokens - start)", "the prompt counts"),
    "twice": Edit("plain", "return idx\n", "return torch.cat([idx[:, :start], idx], dim=1)\n", "the prompt twice"),
}  # fmt: skip
