"""Each diagnosis on its mutant: the cause is named, and where it shows first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.candidate.diagnose import observe, of_logits
from bench.candidate.examination import SHARP_LENIENCY, Examination
from bench.candidate.examine import examine, other_probes
from bench.candidate.known_mistakes import DETACHED, forward_mistakes, loss_mistakes
from bench.candidate.layouts import layout_of, nanogpt
from bench.candidate.report import table, text
from bench.candidate.search_causes import Probe
from bench.candidate.validate import built
from bench.numerics.inputs import random_batch, sharp_state_dict
from reference import GPTConfig
from reference.functional import cross_entropy
from tests.bench.candidate.faulty_gpts import FORWARD, Mutant
from tests.bench.candidate.written import (
    MLP,
    Attention,
    Block,
    Interleaved,
    Norm,
    PerHead,
    Written,
    interleaved_layout,
    mutant,
    per_head_layout,
)
from tests.quick import quick

# 13 of 20 tokens: a multiple of nothing
CONFIG = GPTConfig(block_size=20, vocab_size=29, n_layer=2, n_head=3, n_embd=15)


# masks that only high scores show
HIGH = [cause for cause in FORWARD if "finite mask" in cause and float(cause.split()[-1]) <= -100.0]
# lower than any score here
UNSEEN = [cause for cause in HIGH if float(cause.split()[-1]) < -2e4]


QUICK = (
    "the two norms of a block exchanged",
    "q, k and v interleaved by head when fused: rows read as (H, 3, D)",
    "no position embedding",
)


def diagnosed(case: Mutant, config: GPTConfig = CONFIG) -> tuple[Any, list[Any]]:
    """Where and why, from the logits alone; from those of the sharp probe if the usual ones show nothing."""
    make, layout, _ = case
    weights = sharp_state_dict(config)
    probe = Probe("logits", weights, random_batch(config, 2, 13)[0])
    leniency = 1.0
    if any(case is FORWARD[cause] for cause in HIGH):
        *_, probe = other_probes(weights, config, 0, "float64", 13)
        leniency = SHARP_LENIENCY
    candidate = built(make, layout_of(layout), config, probe.weights, torch.device("cpu"), "float64")
    where, causes, _ = of_logits(candidate, [observe(candidate, probe, "float64", leniency)], "float64")
    return where, causes


@pytest.mark.parametrize("cause", quick([one for one in FORWARD if one not in UNSEEN], *QUICK))
def test_a_known_mistake_is_named_and_located(cause: str) -> None:
    where, causes = diagnosed(FORWARD[cause])
    assert causes, f"nothing explains it; {where.forward}"
    assert all(one.whole for one in causes)
    assert cause in [one.what for one in causes], causes
    # where scores are high, any finite mask shows, and all look the same
    assert len(causes) == 1 or "padding" in cause or cause in HIGH, [one.what for one in causes]
    assert where.forward is not None
    assert where.forward.name == FORWARD[cause][2], where.forward


def test_every_known_mistake_has_its_mutant() -> None:
    causes = {suspect.cause for suspect in forward_mistakes()}
    untested = {cause for cause in causes - FORWARD.keys() if "not transposed" not in cause}
    assert not untested
    assert not FORWARD.keys() - causes


def examined(make: Any, layout: Any = "nanogpt", **options: Any) -> Examination:
    return examine(make, layout_of(layout), **{"config": CONFIG, "time": 13, "steps": 0, **options})


def causes_of(seen: Examination) -> list[str]:
    return [cause.what for cause in seen.causes]


def test_a_mistake_in_one_block_is_said_to_be_there_only() -> None:
    seen = examined(mutant(MLP, range(1, 2), activate=lambda self, x: F.gelu(x)))
    assert causes_of(seen) == ["GELU in its exact erf form in block 1 only"]
    assert seen.where.forward.name == "h.1.gelu"


def test_a_number_in_one_block_is_fitted_there() -> None:
    def build(config: GPTConfig) -> nn.Module:
        model = Written(config)
        block = model.transformer.h[1]
        block.ln_1, block.ln_2 = (nn.LayerNorm(config.n_embd, eps=3e-4) for _ in range(2))
        return model

    assert causes_of(examined(build)) == ["LayerNorm with eps 0.0003 in block 1 only"]


def two(first: Any, second: Any) -> Any:
    """A build of a model with two mistakes: the methods of the second are put into a model with the first."""

    def build(config: GPTConfig) -> Written:
        model = first(config)
        second(model)
        return model

    return build


def scaled_by_the_width(model: Written) -> None:
    for block in model.transformer.h:
        block.attn.score = lambda q, k: q @ k.mT / CONFIG.n_embd**0.5


ERF = mutant(MLP, activate=lambda self, x: F.gelu(x))


@pytest.mark.slow
def test_of_two_mistakes_both_are_named_one_after_the_other() -> None:
    seen = examined(two(ERF, scaled_by_the_width))
    assert seen.where.forward.name == "h.0.scores"
    assert causes_of(seen) == [
        "scores scaled by the width of the model, not of a head",
        "GELU in its exact erf form",
    ]
    assert all(cause.whole for cause in seen.causes)
    assert [cause.link for cause in seen.causes][1:] == ["and"]
    assert "the reference with these 2 changes gives the candidate's logits in all 4 probes" in seen.causes[0].evidence
    assert "and: GELU in its exact erf form" in text(seen)


def test_of_three_mistakes_all_are_named_those_of_the_loss_and_the_gradients_too() -> None:
    def third(model: Written) -> None:
        scaled_by_the_width(model)
        plain = model.forward
        model.loss = lambda ids, targets: flat(plain(ids), targets.clamp(min=0))

    seen = examined(two(ERF, third))
    assert causes_of(seen)[:2] == [
        "scores scaled by the width of the model, not of a head",
        "GELU in its exact erf form",
    ]
    assert causes_of(seen)[2:] == ["ignored targets counted as token 0"]
    assert {cause.link for cause in seen.causes[1:]} == {"and"}


@pytest.mark.slow
def test_two_mistakes_that_change_the_same_activation_are_both_named() -> None:
    def transposed_too(model: Written) -> None:
        for block in model.transformer.h:
            block.attn.score = lambda q, k: k @ q.mT / CONFIG.n_embd**0.5

    seen = examined(two(Written, transposed_too))
    assert set(causes_of(seen)) == {
        "scores scaled by the width of the model, not of a head",
        "q and k exchanged, or the scores transposed, k q^T",
    }


@pytest.mark.slow
def test_what_stays_unexplained_beside_a_known_mistake_is_said() -> None:
    seen = examined(two(mutant(MLP, activate=lambda self, x: x.sin()), scaled_by_the_width))
    (cause,) = seen.causes
    assert cause.what == "scores scaled by the width of the model, not of a head"
    assert not cause.whole
    assert "but not its logits" in cause.evidence
    assert seen.where.rest.name == "h.0.gelu"
    assert "not explained: with that, they differ first in: MLP, GELU, block 0 (h.0.gelu)" in " ".join(
        text(seen).split()
    )


@pytest.mark.parametrize("constant", quick([0.44715, 0.05], 0.44715))
def test_a_gelu_with_another_constant_is_named_with_it_and_its_input_is_no_evidence(constant: float) -> None:
    def activate(self: Any, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + constant * x**3)))

    seen = examined(mutant(MLP, activate=activate))
    assert causes_of(seen) == [f"GELU with another constant: {constant} in place of 0.044715"]


def test_an_activation_that_is_unknown_is_not_taken_for_none() -> None:
    seen = examined(mutant(MLP, activate=lambda self, x: x.sin()))
    assert seen.causes == []
    assert seen.where.forward.name == "h.0.gelu"


@pytest.mark.parametrize("value", quick([-12345.0, -3.5], -3.5))
def test_an_additive_mask_of_any_size_is_named_with_its_number(value: float) -> None:
    seen = examined(mutant(Attention, mask=lambda self, s: s + torch.full(s.shape[-2:], value).double().triu(1)))
    assert causes_of(seen) == [f"a finite mask value that is added, {value:g}"]


def test_a_mistake_that_explains_one_probe_and_not_the_others_is_not_named() -> None:
    """13 keys padded to 16 are also 13 padded to 8: the probe of 20 tokens tells them apart."""
    make, layout, _ = FORWARD["padding in the softmax: keys of zeros up to a multiple of 16"]
    seen = examined(make, layout)
    assert causes_of(seen) == ["padding in the softmax: keys of zeros up to a multiple of 16"]


@pytest.fixture(scope="module")
def unexplained() -> Examination:
    """A mistake that is none of the known ones."""
    return examined(mutant(Attention, range(1, 2), merge=lambda self, y: y.transpose(1, 2).flatten(2) * 1.001))


def test_what_no_known_mistake_explains_is_located_all_the_same(unexplained: Examination) -> None:
    seen = unexplained
    assert seen.causes == []
    assert seen.where.forward.name == "h.1.projection"
    assert seen.where.forward.nearest == "linear in transformer.h.1.attn.c_proj"
    assert 1e-4 < seen.where.forward.error < 1e-3
    report = " ".join(text(seen).split())
    assert "none of the known mistakes explains the difference" in report
    scaled = examined(mutant(Attention, score=lambda self, q, k: q @ k.mT * 0.3))
    assert scaled.where.forward.nearest == "mul in transformer.h.0.attn"
    assert scaled.where.forward.factor == pytest.approx(0.3 * 5**0.5)
    assert "off by 3.3e-01: 0.67082 times the right value" in " ".join(text(scaled).split())
    assert "the last: attention output with the heads joined, block 1 (flatten in transformer.h.1.attn)" in report


@pytest.mark.parametrize("width", [80, 60])
def test_on_a_narrow_terminal_no_number_of_the_report_is_cut(width: int, unexplained: Examination) -> None:
    lines = text(unexplained, width).splitlines()
    assert max(map(len, lines)) <= width
    cells = {word for column in table(unexplained).columns for cell in column.cells for word in cell.split("  ")}
    assert cells - {""} <= {word.strip() for line in lines for word in line.split("  ")}


@pytest.mark.slow
def test_what_is_only_near_a_known_mistake_is_named_with_its_own_number() -> None:
    near = mutant(Norm, forward=lambda self, x: F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1.001e-6))
    seen = examined(near)
    assert seen.where.forward.name == "h.0.ln_1"
    assert causes_of(seen) == ["LayerNorm with eps 1.001e-06"]


def test_what_a_fused_kernel_hides_is_said_to_be_hidden() -> None:
    def attend(self: Any, x: Tensor) -> Tensor:
        q, k, v = (self.split(part) for part in self.parts(x))
        return self.c_proj(self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)))

    seen = examined(mutant(Attention, forward=attend))
    assert causes_of(seen) == ["scores not scaled"]
    assert seen.where.forward.name == "h.0.attention"
    assert [one.split(" ")[0] for one in seen.where.forward.hidden] == ["scores,", "attention"]
    assert "may begin earlier, in activations that this candidate does not expose: scores, block 0" in " ".join(
        text(seen).split()
    )


@pytest.mark.slow
def test_when_nothing_can_be_matched_it_says_so_and_names_the_cause_all_the_same() -> None:
    class Opaque(nn.Module):
        """Everything in one scripted function, in shapes of its own."""

        def __init__(self, config: GPTConfig) -> None:
            super().__init__()
            self.inner = [mutant(MLP, activate=lambda self, x: F.gelu(x))(config)]
            for name, parameter in self.inner[0].named_parameters():
                self.register_parameter(name.replace(".", "_"), parameter)

        def forward(self, ids: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return self.inner[0](ids)

    def layout(state: Any, config: GPTConfig) -> Any:
        return {n.replace(".", "_"): t for n, t in nanogpt(state, config).items() if n != "lm_head.weight"}

    seen = examined(Opaque, layout)
    assert seen.where.unmatched
    assert causes_of(seen) == ["GELU in its exact erf form"]
    assert "unknown: no tensor that the candidate computes equals an activation" in text(seen)


# The loss


class OwnLoss(Written):
    """A model that computes its loss itself."""

    def __init__(self, config: GPTConfig, function: Any) -> None:
        super().__init__(config)
        self.function = function

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.function(self(ids), targets)


def flat(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **options)


LOSSES: dict[str, Any] = {
    "the sum divided by all targets, the ignored ones too": lambda x, y: (
        flat(x, y, ignore_index=-1, reduction="sum") / y.numel()
    ),
    "the sum of the losses, not their mean": lambda x, y: flat(x, y, ignore_index=-1, reduction="sum"),
    "ignored targets counted as token 0": lambda x, y: flat(x, y.masked_fill(y == -1, 0)),
    "ignored targets counted as the last token": lambda x, y: flat(x, torch.where(y < 0, x.shape[-1] - 1, y)),
    "targets shifted twice": lambda x, y: flat(x[:, :-1], y[:, 1:], ignore_index=-1),
    "the mean of each sequence's mean": lambda x, y: (
        sum(flat(a, b, ignore_index=-1) for a, b in zip(x, y, strict=True)) / len(x)
    ),
    "in bits, not nats": lambda x, y: flat(x, y, ignore_index=-1) * 1.4426950408889634,
    "softmax taken twice: probabilities given to cross-entropy": lambda x, y: flat(x.softmax(-1), y, ignore_index=-1),
    "label smoothing of 0.1": lambda x, y: flat(x, y, ignore_index=-1, label_smoothing=0.1),
    **{
        f"padding in the softmax: columns of zeros up to a multiple of {n}": lambda x, y, n=n: flat(
            F.pad(x, (0, -(-x.shape[-1] // n) * n - x.shape[-1])), y, ignore_index=-1
        )
        for n in (8, 16, 32, 64, 128)
    },
}


@pytest.mark.parametrize("cause", quick(LOSSES, "targets shifted twice", "the sum of the losses, not their mean"))
def test_a_known_mistake_of_a_loss_is_named(cause: str) -> None:
    seen = examined(lambda config: OwnLoss(config, LOSSES[cause]))
    assert cause in causes_of(seen), seen.causes
    assert len(causes_of(seen)) == 1 or "padding" in cause
    assert text(seen).splitlines()[3].startswith("The same logits, but another loss: off by")


def test_every_known_mistake_of_a_loss_has_its_mutant() -> None:
    assert {what for what, _, _ in loss_mistakes(CONFIG)} == LOSSES.keys()


# Gradients


def cut(kind: type[nn.Module], method: str, where: str = "output", **options: Any) -> Any:
    """A build whose method gives, or takes, what no gradient flows through."""
    plain = getattr(kind, method)

    def changed(self: Any, *arguments: Tensor) -> Any:
        if where == "output":
            found = plain(self, *arguments)
            return found.detach()
        return plain(self, *(a.detach() if str(i) in where else a for i, a in enumerate(arguments)))

    return mutant(kind, **{method: changed}, **options)


def part_cut(*which: int) -> Any:
    """Of q, k and v, some."""
    return mutant(
        Attention,
        parts=lambda self, x: tuple(p.detach() if i in which else p for i, p in enumerate(Attention.parts(self, x))),
    )


def embedded(tokens: bool, positions: bool, whole: bool) -> Any:
    def embed(self: Any, ids: Tensor) -> Tensor:
        a, b = self.transformer.wte(ids), self.transformer.wpe(torch.arange(ids.shape[1]))
        x = (a.detach() if tokens else a) + (b.detach() if positions else b)
        return x.detach() if whole else x

    return mutant(Written, embed=embed)


def blocked(*cuts: str) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        def at(name: str, y: Tensor) -> Tensor:
            return y.detach() if name in cuts else y

        x = at("residual_1", x + at("projection", self.attn(at("ln_1", self.ln_1(x)))))
        return at("residual_2", x + at("mlp", self.mlp(at("ln_2", self.ln_2(x)))))

    return mutant(Block, forward=forward)


# by the activation through which nothing flows back: the mutant, and what must be among the causes
CUTS: dict[str, tuple[Any, str]] = {
    "tokens": (embedded(True, False, False), "the token embedding"),
    "positions": (embedded(False, True, False), "the position embedding"),
    "embedding": (embedded(False, False, True), "the embedding"),
    "ln_1": (blocked("ln_1"), "the norm before the attention"),
    "q": (part_cut(0), "q"),
    "k": (part_cut(1), "k"),
    "v": (part_cut(2), "v"),
    "q and k": (part_cut(0, 1), "q and k"),
    "k and v": (part_cut(1, 2), "k and v"),
    "q, k and v": (part_cut(0, 1, 2), "q and k and v"),
    "scores": (cut(Attention, "score"), "the scores"),
    "weights": (cut(Attention, "normalise"), "the attention weights"),
    "attention": (cut(Attention, "merge", "0"), "the attention output"),
    "projection": (blocked("projection"), "the output projection of the attention"),
    "residual_1": (blocked("residual_1"), "the residual stream after the attention"),
    "ln_2": (blocked("ln_2"), "the norm before the MLP"),
    "c_fc": (cut(MLP, "activate", "0"), "the first layer of the MLP"),
    "gelu": (cut(MLP, "activate"), "the GELU"),
    "mlp": (blocked("mlp"), "the second layer of the MLP"),
    "residual_2": (blocked("residual_2"), "the residual stream after the MLP"),
    "ln_1 and ln_2": (blocked("ln_1", "ln_2"), "the norm before the attention and the norm before the MLP"),
    "residual_1 and residual_2": (
        blocked("residual_1", "residual_2"),
        "the residual stream after the attention and the residual stream after the MLP",
    ),
    "ln_f": (
        mutant(Written, finish=lambda self, x: self.lm_head(self.transformer.ln_f(x).detach())),
        "the norm after the last block",
    ),
}


@pytest.mark.parametrize("name", quick(CUTS, "positions", "k", "gelu"))
def test_a_gradient_that_does_not_flow_back_is_named_and_located(name: str) -> None:
    make, cause = CUTS[name]
    seen = examined(make)
    assert text(seen).splitlines()[3].startswith("The same forward pass, but other gradients:")
    assert f"no gradient flows back through {cause}" in causes_of(seen), seen.causes
    assert seen.where.backward is not None
    assert seen.where.backward.name.split(".")[-1] in name.replace(",", "").split(), seen.where.backward


def test_every_activation_that_can_be_cut_off_has_its_mutant() -> None:
    assert DETACHED.keys() <= CUTS.keys()


def test_a_head_that_learns_nothing_is_named() -> None:
    def finish(self: Any, x: Tensor) -> Tensor:
        return self.transformer.ln_f(x) @ self.lm_head.weight.detach().T

    (cause,) = causes_of(examined(mutant(Written, finish=finish)))
    assert cause.startswith("the token table gets no gradient from the logits")


@pytest.mark.slow
def test_gradients_that_are_a_multiple_are_said_to_be() -> None:
    def doubled(config: GPTConfig) -> nn.Module:
        model = Written(config)
        for parameter in model.parameters():
            parameter.register_hook(lambda g: 2.0 * g)
        return model

    assert causes_of(examined(doubled)) == ["every gradient is 2 times the right one"]

    def table_doubled(config: GPTConfig) -> nn.Module:
        model = Written(config)
        model.lm_head.weight.register_hook(lambda g: 2.0 * g)
        return model

    assert causes_of(examined(table_doubled)) == ["the gradient of wte.weight is 2 times the right one"]


@pytest.mark.slow
def test_a_frozen_tensor_is_named() -> None:
    def frozen(config: GPTConfig) -> nn.Module:
        model = Written(config)
        model.transformer.h[1].mlp.c_fc.bias.requires_grad_(False)
        return model

    seen = examined(frozen)
    assert causes_of(seen) == ["no gradient arrives at h.1.mlp.c_fc.bias"]
    assert [m.name for m in seen.failures] == ["h.1.mlp.c_fc.bias"]


@pytest.mark.slow
def test_tables_that_are_not_tied_train_apart() -> None:
    class Untied(Written):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__(config)
            self.lm_head.weight = nn.Parameter(torch.zeros_like(self.lm_head.weight))

    seen = examined(Untied, steps=20)
    assert causes_of(seen) == ["wte.weight exists as two parameters, which differ after training"]
    assert {m.quantity for m in seen.failures} == {"trajectory", "update"}
    assert "but it trains differently" in " ".join(text(seen).split())


# Where nothing of it shows in the main comparison


@pytest.mark.slow
def test_a_mistake_that_needs_high_scores_is_found_by_them() -> None:
    make, layout, _ = FORWARD["a finite mask value, -1e4"]
    seen = examined(make, layout)
    assert {m.name for m in seen.failures} == {"logits, sharper attention"}
    assert causes_of(seen) == ["a finite mask value, -1e4"]
    assert text(seen).splitlines()[3].startswith("Not the same function: logits, sharper attention off by")


@pytest.mark.slow
def test_a_mistake_at_the_end_of_the_block_is_found_there() -> None:
    seen = examined(mutant(Written, positions=lambda self, T: torch.arange(T).clamp(max=18)))
    assert {m.name for m in seen.failures if m.quantity == "logits"} == {"logits of 20 tokens"}
    assert seen.where.forward.name == "positions"
    seen = examined(mutant(Written, positions=lambda self, T: torch.arange(T) + 1))
    assert "positions counted from 1" in causes_of(seen)
    assert [one.name for one in seen.unjudged] == ["logits of 20 tokens"]
    assert seen.unjudged[0].why.startswith("a call with ids of shape (2, 20) raised IndexError")
    assert seen.unjudged[0].why.endswith(f", line {Written.embed.__code__.co_firstlineno + 1})")


def test_a_model_that_rounds_to_half_inside_is_told() -> None:
    def halved(self: Any, x: Tensor) -> Tensor:
        return self.c_proj(self.activate(self.c_fc(x)).bfloat16().to(x.dtype))

    seen = examined(mutant(MLP, forward=halved))
    assert seen.precision == "float32"
    assert not seen.same
    assert any("computes in bfloat16 in transformer.h.0.mlp" in cause for cause in causes_of(seen)), seen.causes


def test_nan_is_a_difference_and_is_located() -> None:
    def poisoned(self: Any, x: Tensor) -> Tensor:
        y = F.gelu(x, approximate="tanh").clone()
        y[0, 3, 5] = torch.nan
        return y

    seen = examined(mutant(MLP, range(1, 2), activate=poisoned))
    assert not seen.same
    assert seen.where.forward.name == "h.1.mlp", "the GELU was right before"


def test_nanogpt_is_called_with_targets_and_its_own_loss_is_judged() -> None:
    class WithTargets(Written):
        def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            logits = super().forward(idx)
            if targets is None:
                return logits[:, [-1]], None
            return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)

    seen = examined(WithTargets, steps=3)
    assert seen.same, text(seen)
    assert "its own loss is tested: model(ids, targets=targets)" in seen.notes

    class Counted(WithTargets):
        def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            logits, _ = super().forward(idx, targets)
            return logits, None if targets is None else cross_entropy(logits, targets.clamp(min=0))

    assert causes_of(examined(Counted)) == ["ignored targets counted as token 0"]


@pytest.mark.parametrize(
    "name", quick(["plain", "every rung that changes the model"], "every rung that changes the model")
)
def test_the_optimized_model_is_debugged_with_the_same_tool(name: str) -> None:
    import optimized

    recipe = optimized.PLAIN if name == "plain" else optimized.FULL.without("bf16", "compile", "fused_kernels")

    def build(config: GPTConfig) -> nn.Module:
        model = optimized.build(config, recipe)
        for block in model.h:
            block.mlp.forward = lambda x, mlp=block.mlp: mlp.c_proj(F.gelu(mlp.c_fc(x)))
        return model

    seen = examined(build, "canonical")
    assert causes_of(seen) == ["GELU in its exact erf form"]
    assert seen.where.forward.name == "h.0.gelu"


# Other structures


@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "setting,cause,first",
    [
        ({"activation_function": "gelu"}, "GELU in its exact erf form", "h.0.gelu"),
        pytest.param({"layer_norm_epsilon": 1e-6}, "LayerNorm with eps 1e-06", "h.0.ln_1", marks=pytest.mark.slow),
        pytest.param({"scale_attn_weights": False}, "scores not scaled", "h.0.scores", marks=pytest.mark.slow),
    ],
    ids=["gelu", "eps", "scale"],
)
def test_a_setting_of_hugging_face_is_found_out(setting: Any, cause: str, first: str, attention: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from reference.checkpoints.huggingface import hf_config

    def build(config: GPTConfig) -> nn.Module:
        wrong = GPT2Config(**{**hf_config(config), **setting})
        return GPT2LMHeadModel._from_config(wrong, attn_implementation=attention)

    seen = examined(build, "hf")
    assert causes_of(seen) == [cause]
    shown = {"sdpa": "h.0.attention"}.get(attention, first) if "scale_attn_weights" in setting else first
    assert seen.where.forward.name == shown


@pytest.mark.slow
def test_in_a_list_of_heads_a_mistake_is_found_in_their_scores() -> None:
    class Wrong(PerHead):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__(config)
            for layer in self.layers:
                for head in layer["heads"]:
                    head["query"].out_features = config.n_embd  # by which it scales

    seen = examined(Wrong, per_head_layout)
    assert causes_of(seen) == ["scores scaled by the width of the model, not of a head"]
    assert seen.where.forward.name == "h.0.scores"


@pytest.mark.slow
def test_where_q_k_and_v_are_interleaved_a_layout_that_does_not_know_is_found_out() -> None:
    def in_thirds(state: Any, config: GPTConfig) -> Any:
        out = interleaved_layout(state, config)
        for i in range(config.n_layer):
            for kind in ("weight", "bias"):
                out[f"qkv{i}.{kind}"] = torch.cat([state[f"h.{i}.attn.{n}_proj.{kind}"] for n in "qkv"])
        return out

    seen = examined(Interleaved, in_thirds)
    assert causes_of(seen) == ["q, k and v interleaved by head when fused: rows read as (H, 3, D)"]
    assert seen.where.forward.name == "h.0.q"


@pytest.mark.slow
def test_in_float32_a_mistake_is_named_too() -> None:
    seen = examined(mutant(MLP, activate=lambda self, x: F.gelu(x)), precision="float32", steps=2)
    assert seen.precision == "float32"
    assert causes_of(seen) == ["GELU in its exact erf form"]
    assert seen.where.forward.name == "h.0.gelu"
    cut_off = examined(part_cut(1), precision="float32")
    assert causes_of(cut_off) == ["no gradient flows back through k"]
    assert cut_off.where.backward.name == "h.1.k"
    assert examined(Written, precision="float32", steps=20).same
