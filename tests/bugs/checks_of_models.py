"""Checks of one model on a batch: logits, loss, gradients, dropout, initialisation, conversion."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optimized.loss
from bench.parity import distance
from optimized.generation import CachedGPT
from optimized.gpt import GPT as FastGPT
from reference.checkpoints.canonical import canonical_gradients
from reference.checkpoints.huggingface import from_hf, to_hf
from reference.config import GPTConfig
from reference.training.evaluation import evaluating
from reference.training.loop import initial_weights
from tests.bugs import oracle
from tests.bugs.checks import (
    CONFIG,
    GRADIENT,
    LOGITS,
    LOSS,
    H,
    Outcome,
    batch,
    check,
    count,
    each,
    loud,
    near,
    sharp,
    worst,
)
from tests.bugs.sides import Side

expected_logits = cache(lambda seed, B, T: oracle.logits(sharp(seed), batch(seed, B, T)[0], H))
expected_gradients = cache(lambda seed: oracle.gradients(sharp(seed), batch(seed), H))


@contextmanager
def small_chunks(size: int = 5 * 128 * 8) -> Iterator[None]:
    """Inside, the fused loss takes a small batch in several chunks, as it does a large one.

    Args:
        size: of a chunk's logits, in bytes; 5 rows in float64 if the table is padded, else 20: the last one is short
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimized.loss, "CHUNK_BYTES", size)
        yield


@check("F", "logits", "does it say the same as the oracle, on sharp weights in float64?")
@torch.no_grad()
def logits(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG).eval()
    shapes = ((3, 13), (1, 1), (2, CONFIG.block_size))
    return worst(
        near(f"logits, T = {T}", model(batch(seed, B, T)[0]), expected_logits(seed, B, T), LOGITS) for B, T in shapes
    )


@check("C", "causality", "does a later token move an earlier answer, on any path, however sharp the attention?")
@torch.no_grad()
def causality(side: Side, seed: int) -> Outcome:
    ids, targets = batch(seed, 2, 13)
    targets = targets.clamp(min=0)
    outcomes = []
    for kind, weights in (("sharp", sharp(seed)), ("loud", loud(seed))):
        model = side.model(weights, CONFIG)
        for mode in (True, False):
            model.train(mode)
            path = f"{kind} weights, {'train' if mode else 'eval'} mode"
            said = model(ids)
            for first in (4, 12):
                later = ids.clone()
                later[:, first:] = (later[:, first:] + 1 + seed) % CONFIG.vocab_size
                outcomes.append(moved(path, model(later)[:, :first], said[:, :first]))
                known = targets.masked_fill(torch.arange(13) >= first, -1)
                outcomes.append(moved(f"loss, {path}", model.loss(later, known), model.loss(ids, known)))
        if isinstance(model, FastGPT):
            pieces = [in_pieces(model, row, (3, 5, 5)) for row in (ids, later)]
            outcomes.append(moved(f"cache, {kind} weights", pieces[1][:, :first], pieces[0][:, :first]))
    return worst(outcomes)


def moved(path: str, after: Tensor, before: Tensor) -> Outcome:
    """How far something moved that must not."""
    return count(path, 0, float((after - before).abs().max()))


def in_pieces(model: Any, ids: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Logits of a text shown piece by piece."""
    cached = CachedGPT(model, len(ids))
    return torch.cat([cached.extend(part) for part in ids.split(list(sizes), dim=1)], dim=1)


@check("F", "loss", "is its loss the cross-entropy of the oracle, over the targets that count?")
@torch.no_grad()
def loss(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG).eval()
    ids, targets = batch(seed)
    every = torch.where(targets < 0, ids, targets)
    with small_chunks():
        return worst(
            near(f"loss, {what}", model.loss(ids, t), oracle.loss(sharp(seed), (ids, t), H), LOSS)
            for what, t in (("some targets", targets), ("all targets", every))
        )


@check("G", "gradients", "is the gradient of every weight the oracle's, in chunks and with targets that do not count?")
def gradients(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG).eval()
    with small_chunks():
        value = model.loss(*batch(seed))
        value.backward()
    found = canonical_gradients(model)
    wanted, expected = expected_gradients(seed)
    return worst([near("loss", value.detach(), wanted, LOSS), each("gradient", found, expected, GRADIENT)])


@check("F", "loss in bfloat16", "is the cross-entropy itself computed in float32, when products are in bfloat16?")
@torch.no_grad()
def loss_in_bfloat16(side: Side, seed: int) -> Outcome:
    """Its own logits, which are what bfloat16 makes them, against float64's cross-entropy of those."""
    ids, targets = batch(seed, 8, 16)
    model, context = in_bfloat16(side, sharp(seed))
    with context:
        said, value = model(ids), model.loss(ids, targets)
    exact = nn.functional.cross_entropy(said.double().flatten(0, 1), targets.flatten(), ignore_index=-1)
    return near("loss", value, exact, 5e-6)


def in_bfloat16(side: Side, weights: dict[str, Tensor]) -> tuple[Any, AbstractContextManager[object]]:
    """A model with float32 weights, and what to call it in for products in bfloat16."""
    single = {name: tensor.float() for name, tensor in weights.items()}
    if side.recipe is None:
        return side.model(single, CONFIG, torch.float32), torch.autocast("cpu", dtype=torch.bfloat16)
    return side.plus("bf16").model(single, CONFIG, torch.float32), nullcontext()


@check("F", "precision", "with products in bfloat16, are the stream, the norms and the softmax still in float32?")
@torch.no_grad()
def precision(side: Side, seed: int) -> Outcome:
    """Numbers of which each fits into bfloat16 have been rounded to it. The softmax of the fast attention is inside."""
    model, context = in_bfloat16(side, sharp(seed))
    wanted = re.compile(r"h\.\d+|.*\bln_\w+" + ("" if side.recipe is None else r"|.*\.attention\.dropout"))
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if wanted.fullmatch(name):
            module.register_forward_hook(lambda module, given, out, name=name: found.update({name: out}))
    with context:
        model(batch(seed)[0])
    rounded = [name for name, out in found.items() if torch.equal(out, out.bfloat16().to(out.dtype))]
    assert len(found) >= 3 * CONFIG.n_layer + 1, "some were not seen"
    return count(f"rounded to bfloat16: {', '.join(rounded) or 'none'}", len(rounded))


@check(
    "G", "rounding", "in bfloat16, is the table's gradient in a thousand chunks no further off than twice plain code's?"
)
def rounding(side: Side, seed: int) -> Outcome:
    """The head and the loss alone: behind a whole model, the rounding of all the rest would hide theirs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1024, CONFIG.n_embd, generator=generator).bfloat16().float()
    targets = torch.randint(CONFIG.vocab_size, (1, 1024), generator=generator)
    model, _ = in_bfloat16(side, sharp(seed))

    def gradient(table: Tensor, states: Tensor) -> Tensor:
        table = table.detach().clone().requires_grad_()
        logits = states @ table.T
        value = nn.functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32))[0], targets[0])
        value.backward()  # type: ignore[no-untyped-call]
        assert table.grad is not None
        return table.grad.double()

    with small_chunks(size=1), model.precision.forward():
        value = model.head_loss(x, model.wte, targets)
    value.backward()
    V = CONFIG.vocab_size
    exact = gradient(model.wte.weight[:V].bfloat16().double(), x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradient(model.wte.weight[:V], x)
    allowed = 2.0 * distance(plain, exact)[0]
    return Outcome(distance(model.wte.weight.grad[:V], exact)[0], allowed, "gradient of wte.weight")


@check("F", "padded vocabulary", "are the rows beyond the vocabulary zero, and out of the softmax and the state dict?")
def padded_vocabulary(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG)
    value = model.loss(*batch(seed)).detach()
    outcomes = [near("loss", value, expected_gradients(seed)[0], LOSS)]
    before = float(model.wte.weight[CONFIG.vocab_size :].detach().abs().max())
    outcomes.append(count("padding before training", 0, before))
    step = side.step(model, learning_rate=1e-2)
    for number in range(2):
        step(*batch(seed + number))
    after = float(model.wte.weight[CONFIG.vocab_size :].detach().abs().max())
    outcomes.append(count("padding after two steps", 0, after))
    width = model(batch(seed)[0]).shape[-1]
    outcomes.append(count("logits of no token", width - CONFIG.vocab_size))
    return worst(outcomes)


DROPPING = dataclasses.replace(CONFIG, dropout=0.3)
SITES = ("embeddings", "attention weights", "attention output", "MLP")


@check(
    "F", "dropout", "train, evaluate, train: is it off in evaluation only, and alive at each of its places otherwise?"
)
@torch.no_grad()
def dropout(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), DROPPING)
    ids = batch(seed)[0]
    outcomes = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for turn in ("first", "second"):
            with evaluating(model):
                outcomes.append(near(f"{turn} evaluation", model(ids), expected_logits(seed, 3, 13), LOGITS))
            dead = [site for site in SITES if torch.equal(*(dropped_at(model, site, ids) for _ in range(2)))]
            outcomes.append(count(f"dead after the {turn} evaluation: {', '.join(dead) or 'none'}", len(dead)))
    return worst(outcomes)


def dropped_at(model: Any, site: str, ids: Tensor) -> Tensor:
    """Logits in the mode that the model is in, with the dropout of one place alone."""

    def modules(name: str) -> list[tuple[Any, str]]:
        """Where a rate of dropout is kept: the object and its attribute."""
        if name == "embeddings":
            return [(model.dropout, "p")]
        found: list[tuple[Any, str]] = []
        for block in model.h:
            if name == "MLP":
                found.append((block.mlp.dropout, "p"))
            elif name == "attention output":
                found.append((getattr(block.attn, "residual_dropout", None) or block.attn.dropout, "p"))
            elif hasattr(block.attn, "attention_dropout"):
                found.append((block.attn.attention_dropout, "p"))
            else:
                kept = block.attn.attention.dropout
                found.append((kept, "p") if isinstance(kept, nn.Dropout) else (block.attn.attention, "dropout"))
        return found

    with pytest.MonkeyPatch.context() as patch:
        for other in SITES:
            for owner, name in modules(other):
                if other != site:
                    patch.setattr(owner, name, 0.0)
        said: Tensor = model(ids)
        return said


WIDE = GPTConfig(block_size=64, vocab_size=100, n_layer=3, n_head=2, n_embd=64)


@check("I", "initialisation", "has every fresh weight the mean and deviation that GPT-2's have?")
def initialisation(side: Side, seed: int) -> Outcome:
    """In standard errors: of a mean s / sqrt(N), of a deviation s / sqrt(2 N). Six of them are one in a billion."""
    outcomes = []
    for name, tensor in initial_weights(WIDE, seed).items():
        if name.endswith("bias"):
            outcomes.append(count(f"{name} is not zero", int(tensor.count_nonzero())))
        elif "ln_" in name:
            outcomes.append(count(f"{name} is not one", int((tensor != 1.0).sum())))
        else:
            wanted = 0.02 / math.sqrt(2 * WIDE.n_layer) if "c_proj" in name else 0.02
            N, drawn = tensor.numel(), tensor.double()
            mean = float(drawn.mean().abs()) / wanted * math.sqrt(N)
            deviation = abs(float(drawn.square().mean().sqrt()) / wanted - 1.0) * math.sqrt(2 * N)
            outcomes.append(Outcome(max(mean, deviation), 6.0, f"{name}, in standard errors"))
    return worst(outcomes)


@check("F", "conversion", "does a Hugging Face state dict mean the same here, and ours there, to the last bit?")
def conversion(side: Side, seed: int) -> Outcome:
    ours, theirs = sharp(seed), oracle.hugging_face(sharp(seed))
    return worst(
        count(f"tensors that differ {way}", sum(not torch.equal(found[name], t) for name, t in expected.items()))
        for way, found, expected in (
            ("on the way here", from_hf(theirs, CONFIG), ours),
            ("on the way there", to_hf(ours, CONFIG), theirs),
        )
    )


@check("F", "state dict", "do weights, and moments of the optimizer, survive the way in and out, bit for bit?")
def state_dict(side: Side, seed: int) -> Outcome:
    model = side.model(sharp(seed), CONFIG)
    optimizer = side.step(model).optimizer
    kinds = {"exp_avg": sharp(seed + 1), "exp_avg_sq": {name: t.square() for name, t in sharp(seed + 2).items()}}
    state = {f"{kind}/{name}": t for kind, tensors in kinds.items() for name, t in tensors.items()}
    optimizer.load_state_dict({"step": torch.tensor(7), **state})
    outcomes = []
    for what, found, expected in (
        ("weights", model.state_dict(), sharp(seed)),
        ("moments", optimizer.state_dict(), {"step": torch.tensor(7), **state}),
    ):
        outcomes.append(count(f"{what} with another name", len(found.keys() ^ expected.keys())))
        both = found.keys() & expected.keys()
        differing = sum(not torch.equal(found[name], expected[name]) for name in both)
        outcomes.append(count(f"{what} that differ", differing))
    outcomes.append(
        count("weights in another order", sum(a != b for a, b in zip(model.state_dict(), sharp(seed), strict=True)))
    )
    return worst(outcomes)
