"""The files in examples/ are judged as their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.candidate.examine import Examination, examine
from bench.candidate.layouts import layout_of
from bench.user_code.load_function import load_function

ROOT = Path(__file__).parents[3]


def examined(name: str) -> Examination:
    """An example's examination, without AdamW steps."""
    return examine(load_function(f"examples/{name}.py:build", "build", "candidate"), layout_of("nanogpt"), steps=0)


def test_the_examples_show_a_right_model_a_wrong_activation_and_a_lost_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert {path.stem for path in Path("examples").glob("*.py")} >= {"my_gpt", "erf_gelu", "detached_keys"}
    right, forward, backward = (examined(name) for name in ("my_gpt", "erf_gelu", "detached_keys"))
    assert right.same
    assert [cause.what for cause in forward.causes] == ["GELU in its exact erf form"]
    assert not backward.failed("logits")
    assert not backward.failed("loss")
    assert [cause.what for cause in backward.causes] == ["no gradient flows back through k"]


@pytest.mark.slow
def test_in_the_example_with_two_mistakes_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert [cause.what for cause in examined("two_mistakes").causes] == [
        "LayerNorm with eps 1e-06",
        "scores scaled by the width of the model, not of a head",
    ]
