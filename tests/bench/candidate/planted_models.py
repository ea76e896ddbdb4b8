"""The bugs of tests/bugs that are in a model, planted in three right models by changes of their text.

A row has the bug's number in tests/bugs/mutants.py, the causes that name it, where it shows first, and the changes of
each file. Not here: the second row of a bug that is the same text in a user's file (3 and 12 in a kernel, 24 and 41 in
the fused loss), and 48 to 51 and 85, which are about a hand-written backward pass of the loss or about padding of the
table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from bench.candidate.examination import SHARP

FOLDER = Path(__file__).parent / "right_models"
FILES = ("fused", "per_head", "conv1d")
LAYOUTS = {"fused": "nanogpt", "per_head": f"{FOLDER / 'per_head.py'}:layout", "conv1d": "hf"}
Edits = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Planted:
    """One bug and how it is written in each file."""

    row: int
    name: str
    causes: tuple[str, ...]  # a cause that begins with one of them is right
    place: str  # of the first difference: an activation; "backward ..."; "" if it is said by the cause alone
    edits: dict[str, Edits]  # by file; a file that cannot have the bug is left out
    only_in: str = ""  # the one probe in which it moves a number; beside a bug that shows in all, it is not the first


def each(fused: str, per_head: str, conv1d: str) -> dict[str, Edits]:
    """Changes of one place per file, "old -> new"."""
    texts = {"fused": fused, "per_head": per_head, "conv1d": conv1d}
    return {name: tuple(map(words, text.split(" && "))) for name, text in texts.items() if text}


def words(change: str) -> tuple[str, str]:
    """The words of "old -> new"."""
    old, _, new = change.partition(" -> ")
    return old, new


SOFTMAX = ("F.softmax(att, dim=-1)", "wei.softmax(dim=-1)", "torch.softmax(attn_weights, dim=-1)")
MASKED = (
    'att = att.masked_fill(self.seen[:T, :T] == 0, float("-inf"))',
    'wei = wei.masked_fill(later, float("-inf"))',
    "attn_weights = attn_weights + causal",
)
LOSS = (
    "F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)",
    "F.cross_entropy(flat, wanted, ignore_index=-1)",
    "self.loss_fct(lm_logits.view(-1, lm_logits.size(-1)), targets.view(-1))",
)
NORMS = (
    "F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)",
    "std = torch.sqrt(var + 1e-5)",
    "r = torch.rsqrt(s + 1e-5)",
)
GELU = ('F.gelu(x, approximate="tanh")', 'nn.GELU(approximate="tanh")',
        "0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))")  # fmt: skip


def replaced(old: tuple[str, str, str], fused: str, per_head: str, conv1d: str) -> dict[str, Edits]:
    """Another text in one place of each file."""
    return {name: ((a, b),) for name, a, b in zip(FILES, old, (fused, per_head, conv1d), strict=True)}


def norm_by(deviation: str) -> str:
    """LayerNorm with another deviation, in fused.py."""
    return f"(x - x.mean(-1, True)) / {deviation} * self.weight + self.bias"


PLANTED = [
    Planted(1, "attention scaled by the embedding width", ("scores scaled by the width of the model",), "h.0.scores",
        each("math.sqrt(k.size(-1)) -> math.sqrt(self.n_embd)", "k.shape[-1] ** -0.5 -> x.shape[-1] ** -0.5",
             "math.sqrt(self.head_dim) -> math.sqrt(self.embed_dim)")),
    Planted(2, "attention not scaled", ("scores not scaled",), "h.0.scores",
        each(" * (1.0 / math.sqrt(k.size(-1))) -> ", " * k.shape[-1] ** -0.5 -> ",
             "attn_weights / math.sqrt(self.head_dim) -> attn_weights * 1.0")),
    Planted(3, "erf GELU", ("GELU in its exact erf form",), "h.0.gelu",
        replaced(GELU, "F.gelu(x)", "nn.GELU()", "torch.nn.functional.gelu(x)")),
    Planted(4, "the mask is -1e4", ("a finite mask value, -1e4", "a finite mask value that is added, -1e4"),
        "h.0.weights",
        each('float("-inf") -> -1e4', 'float("-inf") -> -1e4', "-math.inf -> -1e4"),
        only_in=SHARP),  # elsewhere exp(-1e4) is 0 in float64
    Planted(5, "the mask is dropped in train mode", ("another function in train mode",), "",
        replaced(MASKED, "att = att if self.training else " + MASKED[0].removeprefix("att = "),
                 "wei = wei if self.training else " + MASKED[1].removeprefix("wei = "),
                 "attn_weights = attn_weights if self.training else attn_weights + causal")),
    Planted(6, "the mask is applied after the softmax", ("the mask applied after the softmax",), "h.0.weights",
        {"fused": ((MASKED[0] + "\n        ", ""), (SOFTMAX[0], "F.softmax(att, dim=-1) * self.seen[:T, :T]")),
         "per_head": ((MASKED[1] + "\n        ", ""), (SOFTMAX[1], "wei.softmax(dim=-1).masked_fill(later, 0.0)")),
         "conv1d": ((MASKED[2] + "\n        ", ""), (SOFTMAX[2], "torch.softmax(attn_weights, dim=-1).tril()"))}),
    Planted(7, "the future leaks, a millionth of the mean", ("the mean over all positions leaks",), "h.1.ln_1",
        each("x + self.mlp(self.ln_2(x))\n        return x -> x + self.mlp(self.ln_2(x))\n"
             "        return x + 1e-6 * x.mean(dim=1, keepdim=True)",
             "return x + self.ffwd(self.ln2(x)) -> x = x + self.ffwd(self.ln2(x))\n"
             "        return x + 1e-6 * x.mean(1, keepdim=True)",
             "return residual + self.mlp(hidden_states) -> out = residual + self.mlp(hidden_states)\n"
             "        return out + 1e-6 * out.mean(1, True)")),
    Planted(8, "heads merged without the transpose", ("heads joined without the transpose",), "h.0.joined",
        each("y.transpose(1, 2).contiguous().view(B, T, C) -> y.reshape(B, T, C)",
             "torch.cat([head(x) for head in self.heads], dim=-1) -> "
             "torch.stack([head(x) for head in self.heads], 1).reshape(x.shape)",
             "tensor = tensor.permute(0, 2, 1, 3).contiguous()\n        return tensor.view("
             "*tensor.size()[:-2], self.embed_dim) -> "
             "return tensor.reshape(tensor.size(0), tensor.size(2), self.embed_dim)")),
    Planted(9, "the fused projection is cut head by head", ("q, k and v interleaved by head when fused",), "h.0.q",
        each("self.c_attn(x).split(self.n_embd, dim=2) -> "
             "self.c_attn(x).view(B, T, self.n_head, 3, -1).unbind(3)\n"
             "        q, k, v = (part.reshape(B, T, C) for part in (q, k, v))",
             "",
             "self.c_attn(hidden_states).split(self.embed_dim, dim=2) -> (\n            part.flatten(2) for part in "
             "self.c_attn(hidden_states).unflatten(2, (self.num_heads, 3, -1)).unbind(3)\n        )")),
    Planted(9, "k before q", ("q and k exchanged",), "h.0.scores",
        each("q, k, v = self.c_attn(x) -> k, q, v = self.c_attn(x)",
             "q, k, v = self.query(x) -> k, q, v = self.query(x)",
             "query, key, value = self.c_attn -> key, query, value = self.c_attn")),
    Planted(10, "the square c_proj is not transposed", ("the square attn.c_proj is not transposed",), "h.0.projection",
        each("self.resid_dropout(self.c_proj(y)) -> self.resid_dropout(y @ self.c_proj.weight + self.c_proj.bias)",
             "out = self.proj(out) -> out = out @ self.proj.weight + self.proj.bias",
             "attn_output = self.c_proj(attn_output) -> "
             "attn_output = attn_output @ self.c_proj.weight.T + self.c_proj.bias")),
    Planted(11, "the residual adds to the normalised stream",
        ("the residual of the attention adds the normalised stream",), "h.0.residual_1",
        each("x = x + self.attn(self.ln_1(x)) -> x = self.ln_1(x)\n        x = x + self.attn(x)",
             "attended = self.sa(self.ln1(x)) -> x = self.ln1(x)\n        attended = self.sa(x)",
             "hidden_states = self.ln_1(hidden_states) -> hidden_states = residual = self.ln_1(hidden_states)")),
    Planted(12, "LayerNorm divides by C - 1", ("LayerNorm with the unbiased variance",), "h.0.ln_1",
        {"fused": ((NORMS[0], norm_by("(x.var(-1, keepdim=True) + 1e-5).sqrt()")),),
         "per_head": (("unbiased=False", "unbiased=True"),),
         "conv1d": (("u.pow(2).mean(-1, keepdim=True)", "x.var(-1, keepdim=True)"),)}),
    Planted(12, "LayerNorm adds eps outside the root", ("LayerNorm with eps outside the root",), "h.0.ln_1",
        replaced(NORMS, norm_by("(x.var(-1, keepdim=True, correction=0).sqrt() + 1e-5)"),
                 "std = torch.sqrt(var) + 1e-5", "r = 1.0 / (s.sqrt() + 1e-5)")),
    Planted(12, "LayerNorm has an eps of 1e-6", ("LayerNorm with eps 1e-06",), "h.0.ln_1",
        replaced(NORMS, NORMS[0].replace("1e-5", "1e-6"), NORMS[1].replace("1e-5", "1e-6"),
                 NORMS[2].replace("1e-5", "1e-6"))),
    Planted(16, "dropout alive in evaluation", ("active in eval mode",), "",
        each("att = self.attn_dropout(att) -> att = F.dropout(att, self.attn_dropout.p)",
             "wei = self.dropout(wei) -> wei = F.dropout(wei, self.dropout.p)",
             "self.attn_dropout(attn_weights) -> torch.nn.functional.dropout(attn_weights, self.attn_dropout.p)")),
    Planted(18, "targets are shifted twice", ("targets shifted twice",), "",
        replaced(LOSS, "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-1)",
                 "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-1)",
                 "self.loss_fct(lm_logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())")),
    Planted(19, "the loss divides by ignored targets too", ("the sum divided by all targets",), "",
        replaced(LOSS, LOSS[0].removesuffix(")") + ', reduction="sum") / targets.numel()',
                 LOSS[1].removesuffix(")") + ', reduction="sum") / wanted.numel()',
                 LOSS[2] + " * (targets != -1).double().mean()")),
    Planted(24, "the cross-entropy is computed in bfloat16", ("it computes in bfloat16",), "",
        replaced(LOSS, LOSS[0].replace("logits.size(-1))", "logits.size(-1)).bfloat16()") + ".to(logits.dtype)",
                 LOSS[1].replace("flat,", "flat.bfloat16(),") + ".to(flat.dtype)",
                 LOSS[2].replace("lm_logits.size(-1))", "lm_logits.size(-1)).bfloat16()") + ".to(lm_logits.dtype)")),
    Planted(25, "the gradient of the tied table is doubled at the head",
        ("the gradient of the token table from the logits is doubled",), "",
        each("self.lm_head(x) -> x @ (2 * self.lm_head.weight - self.lm_head.weight.detach()).T",
             "logits = x @ table.T -> logits = x @ (2 * table - table.detach()).T",
             "self.lm_head(self.transformer(input_ids)) -> "
             "self.transformer(input_ids) @ (2 * self.lm_head.weight - self.lm_head.weight.detach()).T")),
    Planted(41, "padding takes part in the softmax of the loss", ("padding in the softmax: columns",), "",
        replaced(LOSS, "F.cross_entropy(F.pad(logits, (0, 27)).flatten(0, 1), targets.view(-1), ignore_index=-1)",
                 "F.cross_entropy(F.pad(flat, (0, 27)), wanted, ignore_index=-1)",
                 "self.loss_fct(torch.nn.functional.pad(lm_logits, (0, 27)).flatten(0, 1), targets.view(-1))")),
    Planted(43, "the LayerNorms of a block are swapped", ("the two norms of a block exchanged",), "h.0.ln_1",
        each("self.attn(self.ln_1(x)) -> self.attn(self.ln_2(x)) && self.mlp(self.ln_2(x)) -> self.mlp(self.ln_1(x))",
             "self.sa(self.ln1(x)) -> self.sa(self.ln2(x)) && self.ffwd(self.ln2(x)) -> self.ffwd(self.ln1(x))",
             "= self.ln_1(hidden_states) -> = self.ln_X(hidden_states) && = self.ln_2(hidden_states) -> "
             "= self.ln_1(hidden_states) && = self.ln_X(hidden_states) -> = self.ln_2(hidden_states)")),
    Planted(43, "the bias of c_proj is dropped", ("the bias of attn.c_proj left out",), "h.0.projection",
        each("self.resid_dropout(self.c_proj(y)) -> self.resid_dropout(y @ self.c_proj.weight.T)",
             "out = self.proj(out) -> out = out @ self.proj.weight.T",
             "attn_output = self.c_proj(attn_output) -> attn_output = attn_output @ self.c_proj.weight")),
    Planted(43, "the biases of q and v are swapped", ("the biases of q and v exchanged",), "h.0.q",
        each("self.c_attn(x).split -> F.linear(x, self.c_attn.weight, "
             "torch.cat(self.c_attn.bias.chunk(3)[::-1])).split",
             "self.query(x) -> F.linear(x, self.query.weight, self.value.bias) && "
             "self.value(x) -> F.linear(x, self.value.weight, self.query.bias)",
             "self.c_attn(hidden_states).split -> (hidden_states @ self.c_attn.weight + "
             "torch.cat(self.c_attn.bias.chunk(3)[::-1])).split")),
    Planted(44, "k and v are swapped", ("q, k and v exchanged: it takes q, v, k",), "h.0.scores",
        each("q, k, v = self.c_attn(x) -> q, v, k = self.c_attn(x)",
             "q, k, v = self.query(x) -> q, v, k = self.query(x)",
             "query, key, value = self.c_attn -> query, value, key = self.c_attn")),
    Planted(45, "keys have no gradient", ("no gradient flows back through k",), "backward h.1.k",
        each("(q @ k.transpose(-2, -1)) -> (q @ k.detach().transpose(-2, -1))",
             "q @ k.transpose(-2, -1) -> q @ k.detach().transpose(-2, -1)",
             "torch.matmul(query, key.transpose(-1, -2)) -> torch.matmul(query, key.detach().transpose(-1, -2))")),
    Planted(46, "LayerNorm's deviation is a constant to the gradient",
        ("LayerNorm's deviation is a constant to the gradient",), "backward ",
        replaced(NORMS, norm_by("(x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt().detach()"),
                 "std = torch.sqrt(var + 1e-5).detach()", "r = torch.rsqrt(s + 1e-5).detach()")),
    Planted(47, "positions are rolled by one", ("positions rolled by one",), "positions",
        each("device=idx.device) -> device=idx.device).roll(1)",
             "torch.arange(T, device=idx.device) -> torch.arange(T, device=idx.device).roll(1)",
             ".unsqueeze(0) -> .roll(1).unsqueeze(0)")),
    Planted(66, "ignored targets count as token 0", ("ignored targets counted as token 0",), "",
        replaced(LOSS, LOSS[0].replace("targets.view(-1)", "targets.clamp(min=0).view(-1)"),
                 LOSS[1].replace("wanted", "wanted.clamp(min=0)"),
                 LOSS[2].replace("targets.view(-1)", "targets.clamp(min=0).view(-1)"))),
    Planted(74, "dropout of the attention is dead", ("in train mode it drops less than GPT-2",), "",
        each("att = self.attn_dropout(att) -> att = att.contiguous()",
             "wei = self.dropout(wei) -> wei = wei.contiguous()",
             "self.attn_dropout(attn_weights) -> attn_weights.contiguous()")),
    Planted(86, "the MLP's branch is rounded to bfloat16", ("it computes in bfloat16",), "",
        each("x = x + self.mlp(self.ln_2(x)) -> x = x + self.mlp(self.ln_2(x)).bfloat16().to(x.dtype)",
             "x + self.ffwd(self.ln2(x)) -> x + self.ffwd(self.ln2(x)).bfloat16().to(x.dtype)",
             "residual + self.mlp(hidden_states) -> residual + self.mlp(hidden_states).bfloat16().to(residual.dtype)")),
    Planted(87, "the softmax runs in bfloat16", ("it computes in bfloat16",), "",
        replaced(SOFTMAX, "F.softmax(att.bfloat16(), dim=-1).to(x.dtype)", "wei.bfloat16().softmax(dim=-1).to(x.dtype)",
                 "torch.softmax(attn_weights.bfloat16(), dim=-1).to(query.dtype)")),
]  # fmt: skip


def text_with(file: str, bugs: tuple[Planted, ...]) -> str:
    """The text of a file with bugs planted. Raises LookupError if they do not fit."""
    text = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    for bug in bugs:
        if file not in bug.edits:
            raise LookupError(f"{file} cannot have: {bug.name}")
        for old, new in bug.edits[file]:
            if text.count(old) != 1:
                raise LookupError(f"{file} has {old!r} {text.count(old)} times")
            text = text.replace(old, new)
    return text


def alone() -> Iterator[tuple[str, tuple[Planted, ...]]]:
    """Every bug in every file that can have it."""
    for bug in PLANTED:
        yield from ((file, (bug,)) for file in FILES if file in bug.edits)


def in_pairs(count: int, seed: int = 0) -> Iterator[tuple[str, tuple[Planted, ...]]]:
    """Seeded pairs of bugs whose texts do not touch, in the files in turn."""
    chooser = random.Random(seed)
    pairs = list(combinations(PLANTED, 2))
    chooser.shuffle(pairs)
    found = 0
    for pair in pairs:
        file = FILES[found % len(FILES)]
        try:
            text_with(file, pair)
        except LookupError:
            continue
        yield file, pair
        found += 1
        if found == count:
            return
