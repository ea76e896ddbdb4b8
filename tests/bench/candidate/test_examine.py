"""A correct candidate passes whatever its structure; one that cannot be tested is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bench.candidate.examine
from bench.__main__ import main
from bench.candidate.examine import TEST_SIZE, Examination, examine
from bench.candidate.layouts import LAYOUTS, layout_of
from bench.candidate.report import text
from bench.parity import assert_same
from bench.user_code.load_function import load_function
from optimized import FULL, build
from reference import GPT, GPTConfig
from tests.bench.candidate.written import (
    Attention,
    Interleaved,
    PerHead,
    Written,
    interleaved_layout,
    mutant,
    per_head_layout,
)
from tests.quick import quick

SMALL = GPTConfig(block_size=24, vocab_size=37, n_layer=2, n_head=3, n_embd=24)
ROOT = Path(__file__).parents[3]


def examined(build: Any, layout: Any = "nanogpt", **options: Any) -> Examination:
    return examine(build, layout_of(layout), **{"config": SMALL, "steps": 3, **options})


def hugging_face(attention: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    from reference.checkpoints.huggingface import hf_config

    return lambda config: GPT2LMHeadModel._from_config(GPT2Config(**hf_config(config)), attn_implementation=attention)


RIGHT = {
    "reference": (GPT, "canonical"),
    "optimized": (lambda config: build(config, FULL.without("bf16", "compile")), "canonical"),
    "hugging face, eager": (hugging_face("eager"), "hf"),
    "hugging face, sdpa": (hugging_face("sdpa"), "hf"),
    "nanogpt": (Written, "nanogpt"),
    "a module list of heads": (PerHead, per_head_layout),
    "fused and interleaved, time first": (Interleaved, interleaved_layout),
}


@pytest.mark.parametrize("name", quick(RIGHT, "nanogpt", "a module list of heads", "hugging face, eager"))
def test_a_correct_candidate_passes_whatever_its_structure(name: str) -> None:
    make, layout = RIGHT[name]
    seen = examined(make, layout, steps=20)
    assert seen.same, text(seen)
    assert seen.precision == "float64"
    assert (seen.where, seen.causes) == (None, [])
    assert text(seen).splitlines()[3].startswith("The same function: in float64, logits agree to "), text(seen)


def hidden_rounding(config: GPTConfig) -> nn.Module:
    """Rounds where no Python code is watched, as a compiled kernel does."""

    class Hidden(Written):
        def forward(self, ids: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return super().forward(ids).float()

    return Hidden(config)


def test_a_model_that_gives_no_float64_is_judged_in_float32_and_told_what_that_cannot_exclude() -> None:
    seen = examined(hidden_rounding)
    report = text(seen)
    assert seen.same, report
    assert seen.precision == "float32"
    assert "tested in float32, because it returns float32 logits from float64 weights" in " ".join(report.split())
    assert "as far as float32 can tell" in " ".join(report.split())
    assert "What float32 cannot exclude" in report
    assert "eps 1e-12 or none" not in report, "that one moves the logits of sharp weights by more than float32 rounds"


@pytest.mark.slow
def test_what_float32_cannot_exclude_is_listed_by_how_little_it_moves_the_logits() -> None:
    seen = examined(hidden_rounding)
    assert all(re.fullmatch(r".* \(\de-\d+\)", one) for one in seen.unseen), seen.unseen
    assert any(one.startswith("LayerNorm with eps") for one in seen.unseen) or seen.unseen == []
    wide = examine(hidden_rounding, LAYOUTS["nanogpt"], steps=0)
    assert not any("erf" in one for one in wide.unseen), "float32 does see the erf GELU"


def compiled(config: GPTConfig) -> Any:
    return torch.compile(Written(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make,layout",
    [(lambda config: build(config, FULL.without("bf16")), "canonical"), (compiled, "nanogpt")],
    ids=["the rung compile", "torch.compile"],
)
def test_compiled_models_pass_too(make: Any, layout: str) -> None:
    seen = examined(make, layout)
    assert seen.same, text(seen)
    assert seen.precision == "float64"


@pytest.mark.slow
def test_a_compiled_model_is_watched_as_python() -> None:
    wrong = mutant(Attention, score=lambda self, q, k: q @ k.mT)
    seen = examined(lambda config: torch.compile(wrong(config)))
    assert seen.where.forward.name == "h.0.scores"
    assert [cause.what for cause in seen.causes] == ["scores not scaled"]


@pytest.mark.gpu
@pytest.mark.parametrize("example,same", [("my_gpt", True), ("erf_gelu", False), ("detached_keys", False)])
def test_the_examples_on_cuda(example: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    seen = examined(load_function(f"examples/{example}.py", "build", "candidate"), device="cuda", steps=20)
    assert seen.same == same, text(seen)
    assert len(seen.causes) == (not same), seen.causes


@pytest.mark.slow
def test_at_a_large_size_where_and_why_come_from_the_test_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.candidate.examine, "LARGE", 1000)
    wrong = mutant(Attention, score=lambda self, q, k: q @ k.mT)
    lifted: list[GPTConfig] = []
    monkeypatch.setattr(bench.candidate.examine, "rounded_otherwise", lambda own, *rest: lifted.append(own.config))
    seen = examined(wrong, steps=0)
    assert seen.config == SMALL
    assert lifted == [TEST_SIZE], "nothing rounds there, so it is not built again at its own size"
    assert [cause.what for cause in seen.causes] == ["scores not scaled"]
    assert "diagnosed at the test size, at which it differs too" in seen.notes
    # what differs at this size only is looked for at this size
    at_this = mutant(Written, embed=lambda self, ids: Written.embed(self, ids) * (1 + 0.1 * (self.config == SMALL)))
    seen = examined(at_this, steps=0)
    assert seen.where.forward.name == "h.0.ln_1"
    assert seen.notes == []


def test_a_tensor_on_which_the_layout_has_no_say_stays_as_it_is() -> None:
    """Hugging Face has biases even if the config has none: constant zero, and not trained."""
    seen = examined(hugging_face("eager"), "hf", config=GPTConfig(**{**vars(SMALL), "bias": False}), steps=20)
    assert seen.same, text(seen)


@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow)], ids=["a few", "the rest"]
)
def test_twenty_seeds_give_no_false_alarm(seeds: range) -> None:
    for seed in seeds:
        seen = examined(Written, seed=seed, steps=20 if seed in (0, 10, 19) else 1)
        assert seen.same, text(seen)


# What cannot be judged


GOOD = "from tests.bench.candidate.written import Written\n"
WRITTEN = "tests.bench.candidate.written"
REFUSED = {
    "no such file": ("missing.py:build", None, r"candidate missing\.py: there is no such file"),
    "no such module": (
        "no_such_module:build",
        None,
        r"candidate no_such_module: does not import: ModuleNotFoundError: .*",
    ),
    "an import that fails": (
        "import torch\nimport no_such_thing\n",
        None,
        r"candidate mine\.py: does not import: ModuleNotFoundError: No module named 'no_such_thing' \(line 2\)",
    ),
    "a syntax error": (
        "def build(config:\n",
        None,
        r"candidate mine\.py: does not import: SyntaxError: .*\(mine\.py, line 1\)",
    ),
    "a script that ends the process": (
        "import sys\nsys.exit('usage: mine.py')\n",
        None,
        r"candidate mine\.py: does not import: SystemExit: usage: mine\.py \(line 2\)",
    ),
    "no build": (
        "class GPT: pass\ndef make(config): pass\n",
        None,
        r"candidate mine\.py: has no 'build'; it defines GPT, make: name one after a colon, mine\.py:NAME",
    ),
    "nothing at all": ("", None, r"candidate mine\.py: has no 'build'; it defines no function: .*"),
    "a build that is no function": ("build = 3\n", None, r"candidate mine\.py: 'build' is a int: give a function"),
    "a build that raises": (
        "def build(config):\n    return config.n_layers\n",
        None,
        r"candidate: build\(config\) raised AttributeError: 'GPTConfig' object has no attribute 'n_layers'.*",
    ),
    "a build that gives no module": (
        "def build(config):\n    return {}\n",
        None,
        r"candidate: build\(config\) returned a dict: give a torch\.nn\.Module",
    ),
    "a module without parameters": (
        "import torch\ndef build(config):\n    return torch.nn.Identity()\n",
        None,
        r"candidate: its module has no parameters, so it cannot take GPT-2's weights",
    ),
    "a call that raises": (
        GOOD + "class GPT(Written):\n    def forward(self, x):\n        return self.h(x)\nbuild = GPT\n",
        "nanogpt",
        r"candidate: a call with ids of shape \(3, 36\) raised AttributeError: .*'h' \(mine\.py, line 4\)",
    ),
    "neither logits nor anything that has them": (
        GOOD + "class GPT(Written):\n    def forward(self, x):\n        return 'logits'\nbuild = GPT\n",
        "nanogpt",
        r"candidate: its call returned str: return logits, \(logits, loss\), or an object with \.logits",
    ),
    "the last position only": (
        GOOD
        + "class GPT(Written):\n    def forward(self, x):\n        return super().forward(x)[:, -1:]\nbuild = GPT\n",
        "nanogpt",
        r"candidate: returns logits of shape \(3, 1, 211\) for ids of shape \(3, 36\), not \(batch, time, vocabulary\) "
        r"= \(3, 36, 211\): these are of the last position only; return all, or take an argument named targets",
    ),
    "a padded vocabulary": (
        GOOD + "import torch.nn.functional as F\nclass GPT(Written):\n    def forward(self, x):\n"
        "        return F.pad(super().forward(x), (0, 45))\nbuild = GPT\n",
        "nanogpt",
        r"candidate: returns logits of shape \(3, 36, 256\) .*: cut the padding of the vocabulary, .*",
    ),
    "integers": (
        GOOD
        + "class GPT(Written):\n    def forward(self, x):\n        return super().forward(x).long()\nbuild = GPT\n",
        "nanogpt",
        r"candidate: returns int64 logits from float32 weights: return them in the precision of the weights, .*",
    ),
    "bfloat16": (
        GOOD
        + "class GPT(Written):\n    def forward(self, x):\n        return super().forward(x).bfloat16()\nbuild = GPT\n",
        "nanogpt",
        r"candidate: returns bfloat16 logits from float32 weights: .*",
    ),
    "no gradient at all": (
        GOOD + "import torch\nclass GPT(Written):\n    @torch.no_grad()\n    def forward(self, x):\n"
        "        return super().forward(x)\nbuild = GPT\n",
        "nanogpt",
        r"candidate: drops gradients: its output does not depend on its parameters; look for no_grad\(\), .*",
    ),
    "dropout that never stops": (
        GOOD + "import torch.nn.functional as F\nclass GPT(Written):\n    def embed(self, ids):\n"
        "        return F.dropout(super().embed(ids), 0.1)\nbuild = GPT\n",
        "nanogpt",
        r"candidate: changes its output between two calls with the same ids, by \d\.\de[+-]\d+, in eval mode.*",
    ),
    "something that is kept from call to call": (
        GOOD + "class GPT(Written):\n    calls = 0\n    def embed(self, ids):\n        self.calls += 1\n"
        "        return super().embed(ids) * (1 + 1e-9 * self.calls)\nbuild = GPT\n",
        "nanogpt",
        r"candidate: changes its output between two calls .*",
    ),
    "a loss that is no scalar": (
        GOOD
        + "class GPT(Written):\n    def loss(self, ids, targets):\n        return self(ids).sum(-1)\nbuild = GPT\n",
        "nanogpt",
        r"candidate: its loss is a tensor of shape \(3, 36\): give a scalar tensor",
    ),
    "an unknown layout": (
        GOOD + "build = Written\n",
        "karpathy",
        r"unknown layout 'karpathy': give one of auto, canonical, hf, .*",
    ),
    "another layout than the module's": (
        GOOD + "build = Written\n",
        "canonical",
        r"layout: gives nothing for 'transformer\.wte\.weight', .* and \d+ more and gives 'wte\.weight', .*, which the "
        r"candidate does not have; the candidate's tensors are .*",
    ),
    "a layout in another orientation": (
        GOOD + "build = Written\n",
        "hf",
        r"layout: its weights do not fit the candidate: size mismatch for .*c_(proj|fc)\.weight: .*",
    ),
    "a layout that raises": (
        GOOD + "build = Written\ndef own(state):\n    return {'a': state['b']}\n",
        "mine.py:own",
        r"layout: raised KeyError: 'b' \(mine\.py, line 4\)",
    ),
    "a layout that gives no dict": (
        GOOD + "build = Written\ndef own(state):\n    return None\n",
        "mine.py:own",
        r"layout: returned NoneType: give a dict of tensors by name",
    ),
    "a layout that autograd cannot follow": (
        GOOD + "import torch\nbuild = Written\nfrom bench.candidate.layouts import nanogpt\ndef own(state, config):\n"
        "    return {n: t.detach() for n, t in nanogpt(state, config).items()}\n",
        "mine.py:own",
        r"layout: autograd cannot follow it, so gradients cannot be mapped back: .*",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_candidate_that_cannot_be_tested_is_refused_in_one_line(
    mistake: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, layout, message = REFUSED[mistake]
    named = ":build" in source and "\n" not in source
    if not named:
        (folder / "mine.py").write_text(source)
    options = ["--layout", layout] if layout else []
    candidate = source if named else "mine.py"
    status = main(["compare", "--candidate", candidate, *options, "--json", "result.json", "--threads", "1"])
    captured = capsys.readouterr()
    *stages, last = captured.err.splitlines()
    assert re.fullmatch(f"error: {message}", last), last
    assert all(re.fullmatch(r"\d/8 .* \(\d+ s\)", stage) for stage in stages), captured.err
    assert status == 2
    assert captured.out == ""
    assert not (folder / "result.json").exists(), "something was written"


OPTIONS = {
    "--size gpt5": r"unknown size 'gpt5': give one of test, gpt2, .*",
    "--batch 0": r"--batch 0: give a whole number of at least 1",
    "--time 49": r"--time 49: test takes 1 to 48 tokens \(its block size\)",
    "--steps -1": r"--steps -1: give a whole number of at least 0",
    "--threads 0": r"--threads 0: give a whole number of at least 1",
    "--seed -1": r"--seed -1: give a whole number of at least 0",
    "--precision half": r"unknown precision 'half': give one of auto, float64, float32, bfloat16, float16, as-built",
    "--device abacus": r"unknown device 'abacus': .*",
    "--json .": r"--json \.: give the name of a file in an existing folder",
    "--json none/result.json": r"--json none/result\.json: give the name of a file in an existing folder",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_invalid_option_is_refused_in_one_line(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--candidate", f"{WRITTEN}:Written", *option.split()]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"error: {OPTIONS[option]}\n", captured.err), captured.err
    assert captured.out == ""
    assert list(folder.iterdir()) == []


# Verdict and exit status


def test_the_same_is_0_and_a_difference_is_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--layout", "nanogpt", "--threads", "1", "--json", "result.json"]
    assert main([*command, "--candidate", f"{WRITTEN}:Written"]) == 0
    assert "The same function: in float64" in capsys.readouterr().out
    assert json.loads((folder / "result.json").read_text())["same"]
    (folder / "erf.py").write_text(
        "import torch.nn.functional as F\nfrom tests.bench.candidate.written import MLP, mutant\n"
        "build = mutant(MLP, activate=lambda self, x: F.gelu(x))\n"
    )
    assert main([*command, "--candidate=erf.py"]) == 1
    out = capsys.readouterr().out
    assert "Not the same function: logits off by" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    found = json.loads((folder / "result.json").read_text())
    assert not found["same"]
    assert found["where"]["forward"]["name"] == "h.0.gelu"
    assert found["causes"][0]["what"] == "GELU in its exact erf form"


@pytest.mark.slow
def test_a_layout_of_ones_own_may_take_the_config_or_not(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from tests.bench.candidate.written import PerHead as build, per_head_layout\n"
        "def with_config(state, config):\n    return per_head_layout(state, config)\n"
        "class Shape:\n    n_layer, n_head = 3, 4\n"
        "def without(state):\n    return per_head_layout(state, Shape)\n"
    )
    for function in ("with_config", "without"):
        assert main(["compare", "--candidate", "mine.py:build", "--layout", f"mine.py:{function}", "--steps", "2"]) == 0


def test_files_beside_the_candidate_can_be_imported_and_the_path_is_put_back(folder: Path) -> None:
    import sys

    (folder / "sub").mkdir()
    (folder / "sub" / "beside_it.py").write_text("from tests.bench.candidate.written import Written as Model\n")
    (folder / "sub" / "mine.py").write_text("from beside_it import Model as build\n")
    before = list(sys.path)
    assert main(["compare", "--candidate", "sub/mine.py", "--layout", "nanogpt", "--steps", "0"]) == 0
    assert sys.path == before


def test_assert_same_takes_a_build_function_and_its_message_is_the_report() -> None:
    report = assert_same(Written, layout="nanogpt", config=SMALL, steps=2)
    assert report.worst("logits").error < 1e-12
    wrong = mutant(Attention, score=lambda self, q, k: q @ k.mT / self.c_proj.in_features**0.5)
    with pytest.raises(AssertionError) as caught:
        assert_same(wrong, layout="nanogpt", config=SMALL, steps=2)
    message = str(caught.value)
    assert "Not the same function: logits" in message
    assert "scores, block 0 (h.0.scores)" in message
    assert "scores scaled by the width of the model, not of a head" in message
    with pytest.raises(ValueError, match=r"^a model without an oracle: give the function that builds it"):
        assert_same(Written(SMALL), layout="nanogpt")
    with pytest.raises(ValueError, match=r"^candidate missing\.py: there is no such file$"):
        assert_same("missing.py:build")


def test_the_test_size_has_no_two_numbers_that_could_be_taken_for_each_other() -> None:
    sizes = [
        TEST_SIZE.vocab_size,
        TEST_SIZE.block_size,
        TEST_SIZE.n_layer,
        TEST_SIZE.n_head,
        TEST_SIZE.head_size,
        3 * TEST_SIZE.block_size // 4,
    ]
    assert len(set(sizes)) == len(sizes)
