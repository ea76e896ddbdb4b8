"""Other libraries' GPT-2s: the same function unless they give a reason why not; missing packages."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.candidate.examine import examine
from bench.candidate.report import text
from bench.contenders import CONTENDERS, able, build_in, import_what_is_needed, missing, of_library
from bench.contenders.contender import always, where_it_pays
from bench.contenders.gate import ParityGate
from bench.contenders.library import LibraryGPT, Place, laid_out
from bench.contenders.recipes import of_recipe
from bench.contenders.verify import Verdict, checks_of, prove, weights_of
from bench.formatting import NOT_THE_SAME
from bench.numerics.errors import distance
from bench.numerics.inputs import random_batch, sharp_state_dict
from bench.suite.plan import ACCELERATOR, CPU, Plan, Row, of_able
from bench.suite.result_file import read
from bench.suite.tables import show
from bench.workloads.workload import Workload
from optimized import PLAIN
from reference import GPTConfig
from reference.checkpoints.huggingface import canonical_shapes
from tests.bench.contenders import toy_library
from tests.bench.suite.made_up import made_up_timings, result

CONFIG = GPTConfig(block_size=24, vocab_size=50, n_layer=2, n_head=2, n_embd=16)
NO_BIAS = replace(CONFIG, bias=False)
ROOT = Path(__file__).parents[3]
HERE = torch.device("cpu")
LIBRARIES = ("x-transformers", "keras-hub")
TOY = of_library("tests.bench.contenders.toy_library", "a made-up library", needs={"torch": "torch"})

pytestmark = pytest.mark.usefixtures("one_thread")


def here(name: str) -> None:
    """Skip if a contender's package is not installed."""
    line = missing(name)
    if line is not None:
        pytest.skip(line)


def quiet(what: str) -> None:
    pass


def verdict(name: str, config: GPTConfig, precision: str) -> Verdict:
    """A contender's verdict in the last check of a precision."""
    work = Workload("some", config, batch=2, time=16)
    for check, weights in weights_of(checks_of(work, precision, 3), config, 0):
        ((_, found),) = prove(check, config, weights, [name], HERE, 0, quiet)
    return found


def passed(name: str, config: GPTConfig) -> Any:
    return ParityGate(HERE, quiet).of(Workload("some", config, batch=2, time=16), [name])[name]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CONTENDERS, "toy", TOY)
    return "toy"


@pytest.fixture
def poor_toy(toy: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A toy library without the norms' biases."""
    monkeypatch.setattr(toy_library, "WITHOUT", ["ln_1.bias", "ln_2.bias", "ln_f.bias"])
    return toy


# A made-up library's file


@pytest.mark.parametrize("config", [CONFIG, NO_BIAS], ids=["bias", "no bias"])
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_a_file_of_places_makes_a_contender_that_passes_every_proof(
    toy: str, config: GPTConfig, precision: str
) -> None:
    found = verdict(toy, config, precision)
    assert not found.failures(), found.failures()[0]


@pytest.mark.parametrize("wrong", [toy_library.swapped, toy_library.untransposed, toy_library.forgotten])
def test_a_wrong_place_is_noticed_although_every_shape_fits(
    toy: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_library, "places", wrong)
    quantities = {failure.quantity for failure in verdict(toy, CONFIG, "float64").failures()}
    assert "logits" in quantities, f"{wrong.__name__} went unnoticed"


def test_the_same_tensors_decay_as_in_our_gpt_under_other_names_and_shapes(
    toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.contenders.library.decays_by_name", lambda name: True)
    assert {failure.quantity for failure in verdict(toy, CONFIG, "float64").failures()} >= {"update"}


def test_weights_come_back_bitwise_and_a_parameter_that_gpt2_lacks_stays_zero(toy: str) -> None:
    weights = sharp_state_dict(CONFIG, dtype=torch.float32)
    model = build_in("float32", toy, CONFIG, weights, HERE)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == weights.keys()
    step = TOY.build_step(model, learning_rate=1e-2)
    step(*random_batch(CONFIG, 2, 8))
    shift = dict(model.named_parameters())["module.shift"]
    assert shift.count_nonzero() == 0
    assert not torch.equal(model.state_dict()["wte.weight"], weights["wte.weight"])
    with pytest.raises(ValueError, match=r"^canonical state dict: 'wpe\.weight' is missing$"):
        model.load_state_dict({name: tensor for name, tensor in weights.items() if name != "wpe.weight"})


def test_a_tensor_without_a_place_is_zero_in_the_state_dict(poor_toy: str) -> None:
    model = build_in("float32", poor_toy, CONFIG, sharp_state_dict(CONFIG, dtype=torch.float32), HERE)
    state = model.state_dict()
    assert state.keys() == canonical_shapes(CONFIG).keys()
    assert state["ln_f.bias"].count_nonzero() == 0
    assert state["ln_f.weight"].count_nonzero() == 16


@pytest.mark.parametrize(
    "place,message",
    [
        (
            Place("kept.moved", (50, 16)),
            r"^'kept\.moved', the place of 'wte.weight', is no parameter in this version of the library$",
        ),
        (Place("kept.wte/w", (16, 50)), r"has shape \(50, 16\) in this version of the library, not \(16, 50\)$"),
    ],
)
def test_a_library_that_has_moved_a_weight_is_one_line(place: Place, message: str) -> None:
    places = {**toy_library.places(CONFIG), "wte.weight": place}
    with pytest.raises(ValueError, match=message):
        LibraryGPT(toy_library.build(CONFIG), CONFIG, places)
    with pytest.raises(ValueError, match=r"^'wte\.wait' is no tensor of this GPT-2$"):
        LibraryGPT(toy_library.build(CONFIG), CONFIG, {"wte.wait": place})


def test_the_candidate_tool_takes_the_same_file_unchanged() -> None:
    seen = examine(toy_library.build, toy_library.layout, config=CONFIG, steps=2)
    assert seen.same, text(seen)


# Another function


def test_another_function_is_reported_with_its_reason_error_and_budget(poor_toy: str) -> None:
    found = passed(poor_toy, CONFIG)
    assert not found.passed
    assert found.why.startswith(f"{NOT_THE_SAME}: its norms have no shift (logits in float32: error ")
    assert found.why.endswith(" against a budget of 5.0e-06)")
    assert found.unlike == "its norms have no shift"
    assert passed(poor_toy, NO_BIAS).passed, "without biases there is nothing that it lacks"


def test_a_proof_that_fails_for_no_known_reason_is_a_failure(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_library, "places", toy_library.swapped)
    found = passed(toy, CONFIG)
    assert found.why.endswith(" times its budget")
    assert found.unlike == ""


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `bench compare` in this process, with contenders that all fail their proof."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str, Any]:
        few = ("--size", "tiny", "--time", "16", "--steps", "1", "--threads", "1", "--device", "cpu")
        status = main(["compare", *few, "--json", "result.json", *arguments])
        captured, path = capsys.readouterr(), Path("result.json")
        return status, captured.out, captured.err, json.loads(path.read_text()) if path.exists() else None

    return run


def test_compare_shows_another_function_without_a_number_and_does_not_fail(poor_toy: str, compared: Any) -> None:
    status, out, _, found = compared("--contenders", poor_toy)
    assert status == 0, "a known other function is no failure"
    (proof,) = found["parity"]
    assert proof["unlike"] == "its norms have no shift"
    assert not proof["passed"]
    assert found["cases"] == []
    assert f"Left out:\n  toy: {NOT_THE_SAME}: its norms have no shift (logits in float32: error " in out
    assert "FAILED" not in out


def test_compare_without_biases_says_so_and_still_fails_for_a_wrong_contender(
    toy: str, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_library, "places", toy_library.swapped)
    status, out, _, found = compared("--contenders", toy, "--no-bias")
    assert status == 1
    assert found["workloads"][0]["config"]["bias"] is False
    assert "float32, without biases" in out
    assert "Left out:\n  toy: failed: " in out


def test_the_table_of_the_suite_has_a_row_without_numbers_and_the_reason_below() -> None:
    why = f"{NOT_THE_SAME}: it has no biases (logits in float32: error 8.1e-01 against a budget of 5.0e-06)"
    made = result()
    other = {**made["parity"][0], "contender": "toy", "passed": False, "why": why, "unlike": "it has no biases"}
    lines = show({**made, "parity": [*made["parity"], other], "left_out": [f"smoke: toy: {why}"]})
    (row,) = [line for line in lines if line.startswith("toy ")]
    assert row.split() == ["toy", *NOT_THE_SAME.split()]
    assert f" smoke: toy: {why}" in " ".join(" ".join(lines).split())
    assert not [line for line in show(made) if NOT_THE_SAME in line]


PLANTED = """
from bench import contenders
from tests.bench.contenders import toy_library

toy_library.WITHOUT[:] = ["ln_1.bias", "ln_2.bias", "ln_f.bias"]
toy = contenders.of_library("tests.bench.contenders.toy_library", "a made-up library", needs={})
contenders.CONTENDERS["toy"] = toy
"""


@pytest.mark.slow
def test_the_suite_gives_another_function_no_number_and_does_not_fail_for_it(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    own = tmp_path / "suite.json"
    few = ("--quick", "--device", "cpu", "--workloads", "smoke", "--contenders", "toy", "-k", "training-forward")
    pytest_ = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "planted")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*pytest_, "bench/suite/test_models.py", *few, f"--json={own}"],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(own)
    assert [case["contender"] for case in found["cases"]] == ["reference"]
    (line,) = found["left_out"]
    assert line.startswith(f"smoke: toy: {NOT_THE_SAME}: its norms have no shift (logits in float32: error ")
    assert " skipped" in done.stdout


# Missing packages


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all optional packages."""
    real, optional = importlib.util.find_spec, {package for row in CONTENDERS.values() for package in row.needs}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in optional else real(name, *a))


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    "name,line",
    [
        (
            "x-transformers",
            "'x-transformers' needs the package 'x_transformers', which is not installed: pip install x-transformers",
        ),
        ("keras-hub", "'keras-hub' needs the package 'keras', which is not installed: pip install keras"),
    ],
)
def test_a_missing_library_that_is_named_says_what_to_install(name: str, line: str, compared: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        import_what_is_needed(name)
    status, _, errors, found = compared("--contenders", name)
    assert (status, found) == (2, None)
    assert errors.strip().splitlines()[-1] == f"error: {line}"


def test_keras_hub_is_installed_without_its_required_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "keras_hub" else object())
    assert missing("keras-hub") == (
        "'keras-hub' needs the package 'keras_hub', which is not installed: pip install --no-deps keras-hub"
    )


@pytest.mark.usefixtures("nothing_installed")
def test_all_leaves_out_missing_libraries_with_a_line(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names, lines = able(list(CONTENDERS))
    assert set(CONTENDERS) - set(names) == set(LIBRARIES)
    assert [line.split()[0] for line in lines] == [f"'{name}'" for name in LIBRARIES]
    assert all(line.endswith(": left out") for line in lines)
    few = {name: CONTENDERS[name] for name in ("huggingface-eager", *LIBRARIES)}
    for name in set(CONTENDERS) - set(few):
        monkeypatch.delitem(CONTENDERS, name)
    timed = {"huggingface-eager": {task: made_up_timings() for task in ("forward", "training_step")}}
    monkeypatch.setattr("bench.suite.session.run_scenario", lambda *_: timed)
    status, _, _, found = compared("--contenders", "all", "--new-tokens", "0")
    assert status == 0
    assert [one["contender"] for one in found["parity"]] == ["huggingface-eager"]
    assert found["left_out"] == lines


@pytest.mark.usefixtures("nothing_installed")
def test_the_suite_leaves_out_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Row("smoke", ("forward",), ("reference", "keras-hub")), Row("mini", ("forward",), ("keras-hub", "full")))
    plan = of_able(Plan(rows, (), None, False, 1.0, (3, 5)))
    assert [row.contenders for row in plan.rows] == [("reference",), ("full",)]
    (line,) = plan.left_out
    assert line == "'keras-hub' needs the package 'keras', which is not installed: pip install keras: left out"


def test_a_contender_without_float64_says_so_in_one_line(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(CONTENDERS["reference"], float64=False)
    monkeypatch.setitem(CONTENDERS, "coarse", row)
    status, _, errors, found = compared("--contenders", "coarse", "--precision", "float64")
    assert (status, found) == (2, None)
    assert errors.strip().splitlines()[-1] == "error: 'coarse' cannot compute in float64: give --precision float32"
    assert "coarse" in able(["coarse"])[0]
    assert able(["coarse"], "float64")[0] == []


def test_every_variant_of_hugging_face_is_a_contender() -> None:
    kinds = {name.removeprefix("huggingface-") for name in CONTENDERS if name.startswith("huggingface-")}
    assert kinds == {"eager", "sdpa", "bf16", "compiled", "best"}
    assert {kind for kind in kinds if CONTENDERS[f"huggingface-{kind}"].uses_bfloat16 is always} == {"bf16"}
    assert CONTENDERS["huggingface-best"].uses_bfloat16 is where_it_pays
    assert not of_recipe(PLAIN, "plain").needs
    assert set(LIBRARIES) <= {name for row in ACCELERATOR.rows for name in row.contenders}
    assert set(LIBRARIES) <= {name for row in CPU.rows for name in row.contenders}


@pytest.mark.slow
def test_a_compiled_hugging_face_generates_without_the_compiler_and_stays_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("it would be compiled for every length of the cache")

    monkeypatch.setattr("bench.contenders.huggingface_model.compilers", lambda: ["g++"])
    monkeypatch.setattr(torch, "compile", lambda function, **settings: compiled)
    model = build_in("float32", "huggingface-compiled", CONFIG, None, HERE).eval()
    ids = random_batch(CONFIG, 2, 8)[0]
    assert CONTENDERS["huggingface-compiled"].generate(model, ids, 3).shape == (2, 11)
    inner: Any = model
    assert inner.model.forward is compiled


# The libraries themselves


def test_x_transformers_is_the_same_function_without_biases_by_the_candidate_tool() -> None:
    here("x-transformers")
    from bench.contenders import xtransformers

    seen = examine(xtransformers.build, xtransformers.layout, config=NO_BIAS, steps=3)
    assert seen.precision == "float64"
    assert seen.same, text(seen)


@pytest.mark.slow
def test_x_transformers_lacks_only_biases() -> None:
    here("x-transformers")
    from bench.contenders import xtransformers

    lacking = canonical_shapes(CONFIG).keys() - xtransformers.places(CONFIG).keys()
    assert all(name.endswith(".bias") and ("ln_" in name or "attn" in name) for name in lacking)
    seen = examine(xtransformers.build, xtransformers.layout, config=CONFIG, steps=1)
    assert not seen.same
    assert seen.causes[0].what.startswith("LayerNorm without its shift"), text(seen)


def test_keras_hub_is_the_same_function_in_float32() -> None:
    here("keras-hub")
    from bench.contenders import kerashub

    seen = examine(kerashub.build, kerashub.layout, config=CONFIG, steps=3)
    assert seen.precision == "float32"
    assert seen.same, text(seen)


@pytest.mark.parametrize("config", [CONFIG, NO_BIAS], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_passes_if_and_only_if_it_gives_no_reason_why_not(name: str, config: GPTConfig) -> None:
    here(name)
    found = passed(name, config)
    words = CONTENDERS[name].unlike(config)
    assert found.passed == (words == ""), found.why
    assert found.why == "" or found.why.startswith(f"{NOT_THE_SAME}: {words} (logits in float32: error ")
    weights = sharp_state_dict(config, dtype=torch.float32)
    state = build_in("float32", name, config, weights, HERE).state_dict()
    there = {n: t for n, t in state.items() if not words or t.count_nonzero()}
    assert all(torch.equal(tensor, weights[n]) for n, tensor in there.items())
    assert (len(there) < len(weights)) == (words != "")


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_computes_and_writes_in_bfloat16_over_float32_weights(name: str) -> None:
    here(name)
    import_what_is_needed(name)
    weights, ids = sharp_state_dict(NO_BIAS, dtype=torch.float32), random_batch(NO_BIAS, 2, 8)[0]
    model = build_in("bfloat16", name, NO_BIAS, weights, HERE).eval()
    error, _ = distance(model(ids), build_in("float32", name, NO_BIAS, weights, HERE).eval()(ids))
    assert 1e-4 < error < 0.1
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    text = CONTENDERS[name].generate(model, ids, 5)
    assert text.shape == (2, 13)
    assert text.dtype == torch.int64
    assert torch.equal(text[:, :8], ids)
    assert not any(module.training for module in model.modules()), "generation left it in training mode"


def test_laid_out_weights_have_only_the_tensors_with_a_place() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    (found,) = laid_out(weights, {"a": Place("kernel", (3, 2), transposed=True)}).items()
    assert found[0] == "kernel"
    assert found[1].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
