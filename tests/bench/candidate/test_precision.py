"""Rounding is told from a difference: float32 inside a float64 model is found and named, and hides nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.__main__ import main
from bench.candidate.examine import Examination, examine
from bench.candidate.layouts import LAYOUTS
from bench.candidate.report import text
from reference import GPTConfig
from tests.bench.candidate.written import MLP, Attention, Norm, Written, mutant
from tests.quick import quick

SMALL = GPTConfig(block_size=24, vocab_size=37, n_layer=2, n_head=3, n_embd=24)
ROOT = Path(__file__).parents[3]


def examined(build: Any, **options: Any) -> Examination:
    return examine(build, LAYOUTS["nanogpt"], **{"config": SMALL, "steps": 2, **options})


def in_words(seen: Examination) -> str:
    return " ".join(text(seen).split())


# Right functions with float32 inside


def gelu(x: Tensor, scale: Any) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(scale * (x + 0.044715 * x**3)))


class Kept(nn.Module):
    """A GELU whose constant is a buffer, or an attribute."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        scale = torch.tensor(math.sqrt(2 / math.pi), dtype=torch.float32)
        if buffer:
            self.register_buffer("scale", scale)
        else:
            self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, self.scale)


def kept(buffer: bool) -> Any:
    def build(config: GPTConfig) -> nn.Module:
        model = mutant(MLP, activate=lambda self, x: self.kept(x))(config)
        for block in model.transformer.h:
            block.mlp.kept = Kept(buffer)
        return model

    return build


def float32_only(self: nn.Module, ids: Tensor) -> Tensor:
    """Embeddings that are made float32: no float64 layer takes them."""
    x = self.transformer.wte(ids).float()
    return x + self.transformer.wpe(torch.arange(ids.shape[1])).float()


def normed(self: Any, x: Tensor) -> Tensor:
    weight, bias = self.weight.float(), self.bias.float()
    return F.layer_norm(x.float(), weight.shape, weight, bias, 1e-5).to(x.dtype)


class FloatLoss(Written):
    """Its loss alone is in float32."""

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).float().mT, targets, ignore_index=-1)


class Returned(Written):
    """Returns float32 from any precision."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).to(torch.float32)


ROUNDS: dict[str, tuple[Any, str]] = {
    "a tensor made in the call": (
        mutant(MLP, activate=lambda self, x: gelu(x, torch.sqrt(torch.tensor(2 / math.pi)))),
        "it computes in float32 in transformer.h.0.mlp, tensor (tests/bench/candidate/test_precision.py, line",
    ),
    "the root of a whole number": (
        mutant(Attention, score=lambda self, q, k: q @ k.mT / torch.sqrt(torch.tensor(k.shape[-1]))),
        "it computes in float32 in transformer.h.0.attn, sqrt (tests/bench/candidate/test_precision.py, line",
    ),
    "a buffer": (kept(True), "it computes in float32 in the constant transformer.h.0.mlp.kept.scale"),
    "an attribute": (kept(False), "it computes in float32 in the constant transformer.h.0.mlp.kept.scale"),
    "a softmax in float32": (
        mutant(Attention, normalise=lambda self, s: F.softmax(self.mask(s), -1, dtype=torch.float32).to(s.dtype)),
        "it computes in float32 in transformer.h.0.attn, softmax",
    ),
    "a norm in float32": (
        mutant(Norm, forward=lambda self, x: normed(self, x)),
        "it computes in float32 in transformer.h.0.ln_1",
    ),
    "embeddings that float64 layers do not take": (
        mutant(Written, embed=float32_only),
        "it computes in float32 in the model itself, add",
    ),
    "returned logits": (Returned, "it computes in float32 in the model itself, to"),
    "a loss in float32": (FloatLoss, "it computes in float32 in the model itself (_to_copy)"),
}


@pytest.mark.parametrize("what", quick(ROUNDS, "a tensor made in the call", "a buffer", "returned logits"))
def test_a_right_model_with_float32_inside_is_the_same_to_float32_rounding_and_the_place_is_named(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    make, place = ROUNDS[what]
    seen = examined(make)
    report = in_words(seen)
    assert seen.same, report
    assert "The same function to float32 rounding: logits agree to " in report
    assert place in report, report
    assert "with float64 in its place it is the same function: logits to 1" in report
    assert seen.lowering.strict.worst("logits").error < 1e-13
    assert seen.causes == []


@pytest.mark.slow
def test_a_constant_made_at_import_is_rounding_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(
        "import torch\nfrom tests.bench.candidate.written import MLP, mutant\n"
        "SCALE = torch.tensor((2 / torch.pi) ** 0.5)\ndef gelu(self, x):\n"
        "    return 0.5 * x * (1 + torch.tanh(SCALE * (x + 0.044715 * x**3)))\n"
        "def build(config):\n    return mutant(MLP, activate=gelu)(config)\n"
    )
    assert main(["compare", "--candidate", "mine.py", "--layout", "nanogpt", "--threads", "1", "--steps", "0"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The same function to float32 rounding" in out
    assert "first rounded activation: MLP, GELU, block 0 (h.0.gelu), off by " in out


# Differences beside it


def beside(kind: Any, **methods: Any) -> Any:
    """A build with scores whose scale is float32, and another difference."""

    def build(config: GPTConfig) -> nn.Module:
        model = mutant(kind, **methods)(config)
        for block in model.transformer.h:
            block.attn.score = lambda q, k: q @ k.mT / torch.sqrt(torch.tensor(k.shape[-1]))
        return model

    return build


HIDDEN = {
    "an erf GELU": (beside(MLP, activate=lambda self, x: F.gelu(x)), "GELU in its exact erf form", "h.0.gelu"),
    "an eps that moves logits by less than float32 rounds": (
        beside(Norm, forward=lambda self, x: F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1.001e-5)),
        "LayerNorm with eps 1.001e-05",
        "h.0.ln_1",
    ),
}


@pytest.mark.parametrize("what", quick(HIDDEN, "an erf GELU"))
def test_float32_inside_hides_no_difference(what: str) -> None:
    make, cause, first = HIDDEN[what]
    seen = examined(make)
    assert not seen.same
    assert seen.where.forward.name == first
    assert [one.what for one in seen.causes] == ([] if cause is None else [cause])
    assert "that is not the difference: all numbers above are with float64 in its place" in in_words(seen)
    assert "it computes in float32 in transformer.h.0.attn, sqrt" in in_words(seen)


def test_half_precision_inside_is_a_difference_whose_cause_is_known() -> None:
    def halved(self: Any, x: Tensor) -> Tensor:
        return self.c_proj(self.activate(self.c_fc(x)).bfloat16().to(x.dtype))

    seen = examined(mutant(MLP, forward=halved))
    assert not seen.same
    (cause,) = seen.causes
    assert cause.what.startswith("it computes in bfloat16 in transformer.h.0.mlp, bfloat16 ("), cause
    assert "with float64 in its place it is the same function: logits to " in cause.evidence


def test_a_model_that_asks_for_no_lower_precision_is_judged_as_before() -> None:
    seen = examined(mutant(MLP, activate=lambda self, x: F.gelu(x)))
    assert seen.lowering is None
    assert "its float32 parameters were converted to float64; --precision as-built judges it as it is" in in_words(seen)


# Rounding only


def in_precision(dtype: torch.dtype, kind: Any = Written) -> Any:
    return lambda config: kind(config).to(dtype)


class Autocast(Written):
    """float32 parameters, matrix products in bfloat16."""

    def forward(self, ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(ids)


class Coarse(Written):
    """Rounds its embeddings to multiples of 1/8."""

    def embed(self, ids: Tensor) -> Tensor:
        x = super().embed(ids)
        return x + ((x * 8).round() / 8 - x).detach()


class OwnLoss(Written):
    """Its loss is in the precision of its logits."""

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)


LOW = {
    "bfloat16": (in_precision(torch.bfloat16), "as-built", "bfloat16"),
    "float16": (in_precision(torch.float16), "as-built", "float16"),
    "float32": (Written, "as-built", "float32"),
    "a loss in bfloat16": (in_precision(torch.bfloat16, OwnLoss), "as-built", "bfloat16"),
    "a loss in float16": (in_precision(torch.float16, OwnLoss), "as-built", "float16"),
    "autocast": (Autocast, "as-built", "bfloat16 (mixed)"),
    "converted to bfloat16": (Written, "bfloat16", "bfloat16"),
    "converted to float16": (Written, "float16", "float16"),
}


@pytest.mark.parametrize("what", quick(LOW, "float16", "autocast", "converted to bfloat16"))
def test_a_model_as_it_is_built_rounds_no_more_than_plain_code_may(what: str) -> None:
    make, precision, computed = LOW[what]
    for seed in range(3):
        seen = examined(make, precision=precision, seed=seed)
        assert seen.same, text(seen)
        assert seen.precision == computed
        assert f"In {computed} it rounds no more than it may: logits off by " in in_words(seen)


def compiled(config: GPTConfig) -> Any:
    return torch.compile(Written(config).bfloat16())


@pytest.mark.long
@pytest.mark.parametrize("what", [*LOW, "compiled in bfloat16"])
def test_of_200_seeds_at_most_two_are_false_alarms(what: str) -> None:
    make, precision, _ = LOW.get(what, (compiled, "as-built", ""))
    alarms = [seed for seed in range(200) if not examined(make, precision=precision, seed=seed).same]
    assert len(alarms) <= 2, alarms


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_model_that_rounds_more_than_plain_code_is_different(precision: str) -> None:
    seen = examined(Coarse, precision=precision)
    assert not seen.same
    assert f"In {precision} it rounds more than plain code: " in in_words(seen)
