"""The layout of a candidate is guessed from its tensors and verified by the numbers; else a function is printed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.__main__ import main
from bench.candidate.guess_layout import PROBE, LayoutUnknown, choose_layout
from bench.candidate.layouts import LAYOUTS
from bench.numerics.inputs import sharp_state_dict
from bench.parity import assert_same
from bench.weights.layout_code import function_text
from bench.weights.recognise import recognise
from bench.weights.rules import apply
from reference import GPT, GPTConfig
from tests.bench.candidate.test_examine import hugging_face
from tests.bench.candidate.written import (
    MLP,
    Attention,
    Interleaved,
    PerHead,
    Written,
    interleaved_layout,
    mutant,
    per_head_layout,
)
from tests.bench.weights.public_layouts import PUBLIC

SMALL = GPTConfig(block_size=24, vocab_size=37, n_layer=2, n_head=3, n_embd=24)


class Renamed(nn.Module):
    """Any layout as a module: parameters by its rules, computed by the reference."""

    def __init__(self, config: GPTConfig, rules: Any) -> None:
        super().__init__()
        self.config, self.rules, self.names = config, rules, []
        for name, tensor in apply(rules, sharp_state_dict(config, dtype=torch.float32), config).items():
            *parents, own = name.split(".")
            place: nn.Module = self
            for parent in parents:
                if not hasattr(place, parent):
                    place.add_module(parent, nn.Module())
                place = getattr(place, parent)
            place.register_parameter(own, nn.Parameter(tensor.clone()))
            self.names.append(name)

    def forward(self, ids: Tensor) -> Tensor:
        from bench.weights.rules import canonical_tensor

        own = dict(self.named_parameters())
        state = {}
        for rule in self.rules:
            for ours in rule.ours:
                for i in range(self.config.n_layer if "{i}" in ours else 1):
                    state.setdefault(ours.format(i=i), canonical_tensor(rule, ours, own, self.config, i))
        return torch.func.functional_call(GPT(self.config).to(ids.device).train(self.training), state, (ids,))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_candidate_in_a_public_layout_needs_no_layout(name: str) -> None:
    guess = choose_layout("auto", lambda config: Renamed(config, PUBLIC[name]), SMALL)
    assert guess.sure, guess.help
    assert guess.notes[0].startswith("layout guessed, and verified by the numbers: q, k and v ")
    weights = sharp_state_dict(SMALL)
    expected = apply(PUBLIC[name], weights, SMALL)
    assert all(torch.equal(guess.layout(weights, SMALL)[n], t) for n, t in expected.items())


@pytest.mark.parametrize(
    "build,name",
    [(GPT, "canonical"), (Written, "nanogpt"), (hugging_face("eager"), "hf")],
    ids=["canonical", "nanogpt", "hf"],
)
def test_names_of_a_known_scheme_decide_alone(build: Any, name: str) -> None:
    guess = choose_layout("auto", build, SMALL)
    assert (guess.name, guess.sure, guess.notes) == (f"{name} (by its names)", True, [])


@pytest.mark.parametrize("build", [PerHead, Interleaved])
def test_assert_same_needs_no_layout(build: Any) -> None:
    assert assert_same(build, config=SMALL, steps=2).worst("logits").error < 1e-12


def test_a_model_that_wants_heads_of_64_is_built_with_them() -> None:
    def build(config: GPTConfig) -> nn.Module:
        assert config.head_size % 64 == 0
        return Interleaved(config)

    wide = GPTConfig(block_size=32, vocab_size=70, n_layer=2, n_head=3, n_embd=192)
    guess = choose_layout("auto", build, wide)
    assert guess.sure
    assert "q, k and v joined per head (interleaved)" in guess.name


def test_a_mistake_in_the_model_does_not_hide_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x, approximate="none": plain(x))
    guess = choose_layout("auto", Interleaved, SMALL)
    monkeypatch.undo()
    assert guess.sure
    weights = sharp_state_dict(SMALL)
    expected = interleaved_layout(weights, SMALL)
    assert all(torch.equal(guess.layout(weights, SMALL)[n], t) for n, t in expected.items())
    assert re.search(r"with which the logits are nearest to the reference's, by \d\.\de-0\d", guess.notes[0])


# What cannot be guessed


class Odd(Written):
    """With a tensor that has no place in a GPT-2."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.ones(7))


def runnable(text: str) -> Any:
    """The function in a printed text."""
    made: dict[str, Any] = {}
    exec(text.split("A layout function\n")[-1], made)
    return made["layout"]


@pytest.mark.parametrize("name", [*PUBLIC, *LAYOUTS, "per head", "interleaved"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_printed_function_is_python_and_gives_the_layout(name: str, bias: bool) -> None:
    config = GPTConfig(**{**vars(PROBE), "bias": bias})
    weights = sharp_state_dict(config)
    if name in PUBLIC:
        own = apply(PUBLIC[name], weights, config)
    elif name in ("per head", "interleaved") and not bias:
        pytest.skip("that layout is written with biases")
    else:
        own = {**LAYOUTS, "per head": per_head_layout, "interleaved": interleaved_layout}[name](weights, config)
    own = {n: t for n, t in own.items() if bias or t.any()}
    shapes = {n: tuple(t.shape) for n, t in own.items()}
    found = recognise(shapes, config)
    matches = []
    for rules in (found.rules, *found.alternatives):
        found.rules = rules
        given = runnable(function_text(found, shapes, config))(weights, config)
        assert given.keys() == own.keys()
        matches.append(all(torch.equal(given[n], t) for n, t in own.items()))
    assert any(matches)


def test_what_has_no_place_is_printed_beside_ours_with_a_function_to_complete(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text("from tests.bench.candidate.test_guess_layout import Odd as build\n")
    assert main(["compare", "--candidate", "mine.py", "--steps", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        "error: layout: cannot be guessed: 'gate' has no place; complete the function above and give it by --layout "
        "FILE.py:layout"
    )
    assert re.search(r"^gate +\(7,\) +\?$", captured.out, re.MULTILINE)
    assert '# TODO out["gate"] = ...  # (7,)' in captured.out
    # completed by one line, it is a layout
    function = captured.out.split("A layout function\n")[-1].replace("out = {}", 'out = {"gate": torch.zeros(7)}', 1)
    (folder / "own.py").write_text(f"import torch\n{function}")
    assert main(["compare", "--candidate", "mine.py", "--layout", "own.py:layout", "--steps", "0"]) == 0


def test_a_guess_without_proof_and_a_difference_without_cause_are_not_judged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(
        "from tests.bench.candidate.written import Interleaved\n"
        "class build(Interleaved):\n"
        "    def forward(self, ids):\n"
        "        return super().forward(ids.flip(0).roll(3, 1) * 7 % 31)[0]\n"
    )
    assert main(["compare", "--candidate", "mine.py", "--steps", "0", "--json", "r.json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: layout: guessed, and neither it nor the difference is ")
    runnable(captured.out)


def test_in_a_test_too_the_function_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LayoutUnknown, match=r"^layout: cannot be guessed: 'gate' has no place; "):
        assert_same(Odd, config=SMALL)
    runnable(capsys.readouterr().out)
    with pytest.raises(ValueError, match=r"^layout: .* transposed\? try --layout hf"):
        assert_same(hugging_face("eager"), layout="nanogpt", config=SMALL)


# A layout that is given and wrong


@pytest.mark.parametrize("wanted", ["nanogpt", "canonical"])
def test_a_conv1d_model_is_told_its_layout(wanted: str) -> None:
    from bench.candidate.guess_layout import with_advice

    build = hugging_face("eager")
    ask = pytest.raises(ValueError, match=r"^layout: .*: (transposed\? )?try --layout hf, with which it is the same ")
    with ask as caught, with_advice(wanted, build, SMALL):
        from bench.candidate.examine import examine

        examine(build, LAYOUTS[wanted], config=SMALL, steps=0)
    assert ("transposed?" in str(caught.value)) == (wanted == "nanogpt")


def square_transposed(config: GPTConfig) -> nn.Module:
    """nanoGPT's names; the attention's output matrix is used as (in, out), which no shape shows."""
    model = Written(config)
    for block in model.transformer.h:
        block.attn.c_proj.forward = lambda x, m=block.attn.c_proj: x @ m.weight + m.bias
    return model


def per_head_rows(config: GPTConfig) -> nn.Module:
    """nanoGPT's names; c_attn is cut head by head."""

    def parts(self: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = self.c_attn(x).view(*x.shape[:2], self.n_head, 3, -1)
        return tuple(part.flatten(2) for part in y.unbind(3))

    return mutant(Attention, parts=parts)(config)


@pytest.mark.parametrize(
    "build,words",
    [
        (square_transposed, r"is read as \(h d\) c, not c \(h d\) .*: a transposed square matrix; "),
        (per_head_rows, r"c_attn\.weight is read as \(h s d\) c, not \(s h d\) c .*: q, k and v interleaved; "),
    ],
    ids=["square", "per head"],
)
@pytest.mark.parametrize("wanted", ["auto", "nanogpt"])
def test_known_names_in_an_unusual_order_are_a_difference_that_is_named(build: Any, words: str, wanted: str) -> None:
    from bench.candidate.guess_layout import advice, choose_layout

    assert choose_layout(wanted, build, SMALL).name.startswith("nanogpt")
    hint = advice(wanted, build, SMALL)
    assert hint is not None
    assert re.search(words + r"weights loaded by its names give another function", hint), hint


def test_there_is_no_advice_where_none_is_right() -> None:
    from bench.candidate.guess_layout import advice

    assert advice("nanogpt", mutant(MLP, activate=lambda self, x: F.gelu(x)), SMALL) is None
    assert advice("nanogpt", Written, SMALL) is None
    assert advice("nanogpt", lambda config: nn.Linear(3, 4), SMALL) is None


@pytest.mark.slow
def test_biases_that_the_config_does_not_have_are_zero() -> None:
    def always_biased(config: GPTConfig) -> nn.Module:
        return Renamed(GPTConfig(**{**vars(config), "bias": True}), PUBLIC["OPT, fairseq"])

    bare = GPTConfig(**{**vars(SMALL), "bias": False})
    for build in (hugging_face("eager"), always_biased):
        assert assert_same(build, config=bare, steps=0).worst("logits").error < 1e-12


def test_a_candidate_that_cannot_be_built_is_left_to_the_examination() -> None:
    def fails(config: GPTConfig) -> nn.Module:
        raise RuntimeError("no")

    assert choose_layout("auto", fails, SMALL).name == "canonical"
    assert choose_layout("auto", lambda config: SimpleNamespace(), SMALL).name == "canonical"
    with pytest.raises(LayoutUnknown, match=r"^layout: cannot be guessed: "):
        choose_layout("auto", lambda config: nn.Linear(3, 4), SMALL)
