"""Dropout that is alive in eval mode, another function in train mode, and kept state are found and named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.examination import DROPPED, EXPECTED, SPREAD, STANDARD_ERRORS, TRAIN, Examination
from bench.candidate.examine import examine
from bench.candidate.layouts import LAYOUTS
from bench.candidate.report import text
from bench.user_code.refused import Refused
from reference import GPT, GPTConfig
from tests.bench.candidate.written import MLP, Attention, Written, mutant
from tests.quick import quick

SMALL = GPTConfig(block_size=24, vocab_size=37, n_layer=2, n_head=3, n_embd=24)
ROOT = Path(__file__).parents[3]


def examined(build: Any, layout: str = "nanogpt", **options: Any) -> Examination:
    return examine(build, LAYOUTS[layout], **{"config": SMALL, "steps": 0, **options})


def error_of(seen: Examination, name: str) -> float:
    return next(m.error for m in seen.report.measurements if m.name == name)


def dropping(embedding: float = 1.0, weights: float = 1.0, residual: float = 1.0, alive: bool = False) -> Any:
    """A build whose dropout is config.dropout, times a factor at each place."""

    def build(config: GPTConfig) -> nn.Module:
        p = config.dropout

        def embed(self: Any, ids: Tensor) -> Tensor:
            return F.dropout(Written.embed(self, ids), p * embedding, self.training)

        def attend(self: Any, x: Tensor) -> Tensor:
            q, k, v = (self.split(part) for part in self.parts(x))
            rate = p * weights if self.training or alive else 0.0
            return self.c_proj(self.merge(F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)))

        def forward(self: Any, x: Tensor) -> Tensor:
            x = x + F.dropout(self.attn(self.ln_1(x)), p * residual, self.training)
            return x + F.dropout(self.mlp(self.ln_2(x)), p * residual, self.training)

        model = mutant(Written, embed=embed)(config)
        for block in model.transformer.h:
            block.attn.forward = attend.__get__(block.attn)
            block.forward = forward.__get__(block)
        return model

    return build


@pytest.mark.parametrize(
    "make,layout",
    [(dropping(), "nanogpt"), pytest.param(GPT, "canonical", marks=pytest.mark.slow)],
    ids=["own", "the reference"],
)
def test_right_dropout_has_the_expected_means_and_no_effect_in_eval_mode(make: Any, layout: str) -> None:
    for seed in range(4):
        seen = examined(make, layout, seed=seed)
        assert seen.same, text(seen)
        assert max(error_of(seen, EXPECTED), error_of(seen, SPREAD)) < STANDARD_ERRORS
        assert error_of(seen, DROPPED) < 1e-14
        assert error_of(seen, TRAIN) < 1e-14


WRONG = {
    "none at the embedding": (dropping(embedding=0.0), "less"),
    "none in the attention weights": (dropping(weights=0.0), "less"),
    "none into the residual stream": (dropping(residual=0.0), "less"),
    "twice as much": (dropping(2.0, 2.0, 2.0), "more"),
}


@pytest.mark.parametrize("what", quick(WRONG, "none at the embedding"))
def test_other_dropout_has_other_means(what: str) -> None:
    make, more = WRONG[what]
    seen = examined(make)
    assert seen.failures[0].name == SPREAD, text(seen)
    assert {m.quantity for m in seen.failures} == {"expected"}
    assert [cause.what for cause in seen.causes] == [f"in train mode it drops {more} than GPT-2"]
    assert "The same function in eval mode, but another mean square distance" in " ".join(text(seen).split())


def test_dropout_that_the_attention_weights_lack_is_seen_where_the_loss_hardly_moves() -> None:
    config = GPTConfig(block_size=26, vocab_size=37, n_layer=2, n_head=3, n_embd=30)
    seen = examined(dropping(weights=0.0), config=config)
    assert [m.name for m in seen.failures] == [SPREAD], text(seen)
    assert error_of(seen, EXPECTED) < STANDARD_ERRORS < error_of(seen, SPREAD)


def test_a_model_without_dropout_is_right_and_it_is_said() -> None:
    seen = examined(Written)
    assert seen.same
    assert seen.remarks == ["it has no dropout: built with dropout 0.1, it drops nothing in train mode"]


def test_dropout_that_is_alive_in_eval_mode_is_found_and_its_place_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    seen = examined(dropping(alive=True))
    assert [m.name for m in seen.failures] == [DROPPED], text(seen)
    (cause,) = seen.causes
    where = r"scaled_dot_product_attention's dropout in transformer\.h\.0\.attn \(tests/.*/test_modes\.py, line \d+\)"
    assert re.fullmatch(rf"active in eval mode: {where} and in 1 more", cause.what), cause
    assert "The same function, but other logits in eval mode, dropout 0.1: off by " in " ".join(text(seen).split())


class Batched(nn.Module):
    """A norm over the batch, in train mode."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.count = norm.weight, norm.bias, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)
        return y - 0.1 * y.mean(0, keepdim=True) if self.training else y


def test_a_norm_that_is_another_in_train_mode_is_found_and_named() -> None:
    def build(config: GPTConfig) -> nn.Module:
        model = Written(config)
        model.transformer.h[1].ln_2 = Batched(model.transformer.h[1].ln_2)
        del model.transformer.h[1].ln_2.count
        return model

    seen = examined(build)
    assert [m.name for m in seen.failures] == [TRAIN], text(seen)
    assert [cause.what for cause in seen.causes] == ["another function in train mode: transformer.h.1.ln_2 (Batched)"]


@pytest.mark.parametrize("weights", [1.0, 0.0])
def test_where_the_function_in_train_mode_is_another_dropout_is_counted(weights: float) -> None:
    def build(config: GPTConfig) -> nn.Module:
        model = dropping(weights=weights)(config)
        model.transformer.h[1].ln_2 = Batched(model.transformer.h[1].ln_2)
        del model.transformer.h[1].ln_2.count
        return model

    first, *rest = examined(build).causes
    assert first.what.startswith("another function in train mode: transformer.h.1.ln_2")
    less = [("in train mode it drops less than GPT-2", "and")]
    assert [(one.what, one.link) for one in rest] == ([] if weights else less)


def test_dropout_of_its_own_is_noted_with_its_place() -> None:
    class Dropped(Written):
        def embed(self, ids: Tensor) -> Tensor:
            return F.dropout(super().embed(ids), 0.1, self.training)

    seen = examined(Dropped)
    (note,) = seen.notes
    assert note.startswith(
        "in train mode its logits differ, although config.dropout is 0, only by dropout in the model"
    )
    assert {m.name for m in seen.failures} == {EXPECTED, SPREAD}, "it drops less than GPT-2"


def test_a_build_that_refuses_dropout_is_not_judged_with_it() -> None:
    def build(config: GPTConfig) -> nn.Module:
        if config.dropout:
            raise NotImplementedError("no dropout")
        return Written(config)

    seen = examined(build)
    assert seen.same
    assert [one.name for one in seen.unjudged] == [DROPPED]
    assert "build(config) raised NotImplementedError: no dropout (" in seen.unjudged[0].why


# What changes from call to call


class Cached(Attention):
    """Scales keys by those of the call before."""

    kept: Any = 0.0

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        k, self.kept = k * (1 + 1e-3 * self.kept), k.detach().mean()
        return super().score(q, k)


def cached(config: GPTConfig) -> nn.Module:
    model = Written(config)
    for number, block in enumerate(model.transformer.h):
        block.attn = Cached(config, number)
    return model


CHANGES = {
    "dropout": (
        mutant(Written, embed=lambda self, ids: F.dropout(Written.embed(self, ids), 0.1)),
        r"by dropout in the model itself \(tests/.*line \d+\), which ignores self\.training",
    ),
    "random numbers": (
        mutant(MLP, activate=lambda self, x: F.gelu(x, approximate="tanh") + 1e-9 * torch.randn_like(x)),
        r"by torch\.randn_like in transformer\.h\.0\.mlp \(tests/.*line \d+\) and in 1 more, which ignores self.*",
    ),
    "a cache": (cached, r"by what it keeps in transformer\.h\.0\.attn\.kept, transformer\.h\.1\.attn\.kept"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_from_call_to_call_is_refused_with_its_place(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    make, why = CHANGES[what]
    with pytest.raises(Refused, match=rf"^candidate: changes its output between two calls .* in eval mode: {why}$"):
        examined(make)
