"""`python -m bench compare`: the table, the file, the exit status, and every mistake in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.compare.command
from bench.__main__ import main
from bench.compare.command import SHARES, Staged, plan_for
from bench.contenders import CONTENDERS, USUAL
from bench.environment import identity_in_words
from bench.formatting import significant, size
from bench.journal import finite
from bench.settings import Compare
from bench.suite.plan import left_out_of_optimized
from bench.suite.result_file import VERSION, read
from bench.timing.interleave import TimeBudget, Timings
from optimized.hardware import Hardware
from reference import generate
from reference.cli.progress import Stages
from tests.bench.suite.made_up import made_up_timings
from tests.bench.wrong import ERF, NAN

ROOT = Path(__file__).parents[3]
QUICK = (
    *("compare", "--size", "tiny", "--time", "16", "--rounds", "3", "--steps", "2", "--threads", "1"),
    *("--new-tokens", "4"),
)
# Lines from torch: its log, if a CUDA build finds a toolkit but no device, and warnings, e.g. about Python 3.13.0.
TORCHS_OWN = re.compile(r"[VIWEC]\d{4} [\d:.]+ \d+ torch/|\S*/torch/\S+\.py:\d+: \w*Warning: |  warnings\.warn\(")

# The contenders of one complete run. bf16 takes the rounding check too and, unlike `full`, compiles nothing, which
# would take half a minute: compiled contenders are in tests marked slow.
NAMES = ("reference", "bf16")


@dataclass
class Run:
    """The outcome of a command."""

    status: int
    output: str
    errors: str
    result: dict[str, Any]

    def proof(self, name: str) -> dict[str, Any]:
        (found,) = (one for one in self.result["parity"] if one["contender"] == name)
        return found  # type: ignore[no-any-return]

    def speed(self, name: str) -> dict[str, dict[str, Any]]:
        """A contender's cases by task."""
        return {case["task"]: case for case in self.result["cases"] if case["contender"] == name}

    def rows(self, name: str) -> list[str]:
        """The lines that begin with a contender's name, one per table."""
        return [line for line in self.output.splitlines() if line.strip().startswith(name + " ")]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The real command with two contenders, in its own folder and without a terminal."""
    folder = tmp_path_factory.mktemp("compare")
    command = [sys.executable, "-m", "bench", *QUICK, "--batch", "2", "--contenders", *NAMES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    (file,) = (folder / "runs" / "compare").glob("*.json")
    return Run(done.returncode, done.stdout, done.stderr, read(file))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """The command in this process, so that a test can add contenders."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Run:
        status = main([*QUICK, "--json", "result.json", *arguments])
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err, json.loads(Path("result.json").read_text()))

    return run


def test_all_contenders_are_proven_and_timed_and_their_memory_measured(comparison: Run) -> None:
    assert comparison.status == 0, comparison.errors
    assert [one["contender"] for one in comparison.result["parity"]] == list(NAMES)
    (work,) = comparison.result["workloads"]
    for name in NAMES:
        proof = comparison.proof(name)
        assert proof["passed"]
        check, *rounding = proof["checks"]
        assert len(rounding) == (name == "bf16"), "the rounding check is only for bfloat16"
        assert check["failures"] == []
        assert 0.0 < check["over"] <= 1.0
        assert check["top1"] == 1.0
        assert {"logits", "loss", "gradient", "trajectory"} == check["worst"].keys()
        assert check["worst"]["gradient"]["name"].endswith((".weight", ".bias"))
        for what, tokens in {"forward": 2 * 16, "training_step": 2 * 16, "generation": 4}.items():
            speed = comparison.speed(name)[what]
            middle = sorted(speed["seconds"])[1]
            assert len(speed["seconds"]) == 3
            assert speed["first"] > 0
            assert speed["first"] not in speed["seconds"]
            assert speed["tokens_per_second"] == pytest.approx(tokens / middle)
            assert speed["rounds"] == [3]
            ((base, ratio),) = speed["ratios"].items()
            assert base == "reference"
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
            assert speed["precision"] == ("bfloat16" if name == "bf16" else "float32")
        assert 0.5 * 4 * 4 * work["parameters"] < speed["memory"]["peak"] < 200e6
        assert speed["memory"]["method"] == "resident"
    assert comparison.speed("reference")["forward"]["ratios"]["reference"]["median"] == 1.0


def test_the_heading_shows_each_precision(comparison: Run) -> None:
    assert "batch 2 x time 16, float32; bf16: bfloat16\n" in comparison.output


def test_each_rung_that_the_best_recipe_leaves_out_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware("cpu", bfloat16=False, compiler=True, keeps_memory=True)
    monkeypatch.setattr("optimized.recipe.hardware_of", lambda device: hardware)
    assert "optimized" in USUAL, "it takes part unless others are named"
    assert left_out_of_optimized(plan_for(Compare(size="mini")), torch.device("cpu")) == [
        "optimized at mini leaves out bf16: this CPU has no bfloat16 instructions and would emulate them"
    ]
    assert left_out_of_optimized(plan_for(Compare(contenders=("reference",))), torch.device("cpu")) == []


def test_a_comparison_is_a_plan_with_one_row_that_has_all_options() -> None:
    options = Compare(size="tiny", bias=False, batch=3, time=7, precision="float64", new_tokens=5, steps=2, seed=9)
    plan = plan_for(options)
    (row,) = plan.rows
    work = row.work
    assert (work.name, work.batch, work.time, work.new, work.config.bias) == ("tiny", 3, 7, 5, False)
    assert (row.scenarios, row.contenders) == (("compare",), USUAL)
    assert (plan.precision, plan.proof_steps, plan.seed, plan.ceilings) == ("float64", 2, 9, False)
    assert plan_for(Compare(new_tokens=0)).rows[0].scenarios == ("compare_no_text",)


@pytest.mark.parametrize("rounds", [None, 4])
def test_seconds_are_shared_among_the_tasks_and_the_proven_unless_rounds_are_given(
    rounds: int | None, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "erf-gelu", ERF)
    asked: dict[str, TimeBudget] = {}

    def run_scenario(*arguments: Any) -> dict[str, dict[str, Timings]]:
        asked.update(arguments[4])
        return {name: dict.fromkeys(SHARES, made_up_timings()) for name in arguments[2]}

    monkeypatch.setattr("bench.suite.session.run_scenario", run_scenario)
    few = ("--rounds", str(rounds)) if rounds else ("--rounds", "None")
    run("--contenders", "reference", "huggingface-sdpa", "erf-gelu", "--seconds", "40", *few)
    least = {task: rounds or number for task, number in {"forward": 5, "training_step": 5, "generation": 3}.items()}
    seconds = {"forward": 5.0, "training_step": 10.0, "generation": 5.0}
    assert asked == {task: TimeBudget(seconds[task], least[task], rounds or 200) for task in SHARES}


def test_the_ratio_is_the_quotient_of_the_times(comparison: Run) -> None:
    ours, theirs = (comparison.speed(name)["training_step"] for name in NAMES)
    by_hand = sorted(a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True))[1]
    assert theirs["ratios"]["reference"]["median"] == pytest.approx(by_hand)


def test_the_file_has_the_workload_and_the_environment(comparison: Run) -> None:
    result = comparison.result
    assert (result["kind"], result["version"]) == ("compare", VERSION)
    (work,) = result["workloads"]
    assert (work["size"], work["batch"], work["time"], work["precision"]) == ("tiny", 2, 16, "float32")
    speed = comparison.speed("reference")
    assert speed["training_step"]["flops_per_token"] == 3 * speed["forward"]["flops_per_token"]
    assert result["arguments"]["threads"] == 1
    assert result["arguments"]["contenders"] == list(NAMES)
    assert result["environment"]["threads"] == result["environment"]["identity"]["threads"] == 1
    assert comparison.output.startswith(f"\n{identity_in_words(result['environment']['identity'])} of ")
    assert result["environment"]["packages"]["torch"] == torch.__version__
    check, rounding = comparison.proof("bf16")["checks"]
    assert (check["question"], rounding["question"]) == ("function", "rounding")
    assert check["oracle"] == "huggingface-eager in float64"
    assert (check["shape"], check["gradient_shape"], check["steps"]) == ([2, 16], [2, 16], 2)


def test_the_tables_have_a_row_for_each_and_fit_into_100_columns(comparison: Run) -> None:
    lines = comparison.output.splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert "…" not in comparison.output, "something is cut off"
    assert "\x1b" not in comparison.output, "colours without a terminal"
    for name in NAMES:
        proof, *rounding, forward, step, written = comparison.rows(name)
        assert len(rounding) == (name == "bf16")
        speed = comparison.speed(name)
        gradient = comparison.proof(name)["checks"][0]["worst"]["gradient"]
        assert f"{gradient['error']:.1e} {gradient['name']}" in proof
        for task, row in {"forward": forward, "training_step": step, "generation": written}.items():
            assert significant(speed[task]["tokens_per_second"]) in row
            assert size(speed[task]["memory"]["peak"]) in row
    assert "at batch 2 x time 16; 2 AdamW steps" in comparison.output
    assert "huggingface-eager in float64" in comparison.output
    assert "tiny: generation, 1 x 4 tokens after 32; 3 rounds of 1 launch, 75 %\n" in comparison.output
    assert re.search(r"everything that was measured: runs/compare/\d{8}-\d{6}\.json$", comparison.output.strip())


def test_every_stage_is_a_line_on_standard_error_without_a_terminal(comparison: Run) -> None:
    own = (line for line in comparison.errors.splitlines() if not TORCHS_OWN.match(line))
    # notes appear if bfloat16 is emulated or there is no compiler
    lines = [line for line in own if not line.startswith(("loading PyTorch (", "note: "))]
    stages = [re.fullmatch(r"(\d+)/(\d+) (\w.*) \(\d+ s\)", line) for line in lines]
    assert all(stages), comparison.errors
    assert [int(one[1]) for one in stages if one] == list(range(1, 13))
    assert {one[2] for one in stages if one} == {"12"}


def test_a_wrong_contender_gets_no_speed_and_the_status_is_1(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "erf-gelu", ERF)
    done = run("--contenders", "reference", "erf-gelu", "--precision", "float64")
    assert done.status == 1
    right, wrong = done.proof("reference"), done.proof("erf-gelu")
    assert right["passed"]
    assert done.speed("reference").keys() == SHARES.keys()
    assert not wrong["passed"]
    assert done.speed("erf-gelu") == {}
    (proof,) = done.rows("erf-gelu")
    assert proof.endswith(" FAILED")
    (check,) = wrong["checks"]
    worst = check["failures"][0]
    name = "" if worst["name"] == worst["quantity"] else f" {worst['name']}"
    expected = f"failed: {worst['quantity']}{name} in float64: {check['over']:.3g} times its budget"
    assert f"Left out:\n  erf-gelu: {expected}\n" in done.output
    assert {f["quantity"] for f in check["failures"]} >= {"logits", "gradient"}
    assert len(done.rows("reference")) == 4


def test_each_task_is_one_stage_also_in_several_groups(capsys: pytest.CaptureFixture[str]) -> None:
    timing = Staged(Stages(3)).at("tiny/compare")
    for names in (["reference", "full"], ["reference", "sdpa"]):
        timing.launch(1, 1, names)
        for task in ("forward", "training_step"):
            timing.task(task, names)
            timing.rounds(task, names, 5)
            timing.round(task, 1)
    lines = [line.rpartition(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "1/3 building reference, full",
        "2/3 timing forward passes of reference, full",
        "3/3 timing training steps of reference, full",
    ]


@pytest.mark.slow
def test_the_others_are_measured_against_the_first_that_is_proven(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "nan", NAN)
    done = run("--contenders", "nan", "huggingface-sdpa", "reference")
    assert done.status == 1
    assert done.speed("nan") == {}
    assert done.proof("nan")["checks"][0]["worst"]["logits"]["error"] is None, "JSON has no infinity"
    assert done.speed("reference")["forward"]["ratios"].keys() == {"huggingface-sdpa"}
    assert "  nan: failed: logits in float32: inf times its budget\n" in done.output


def test_without_a_proven_contender_nothing_is_timed(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "erf-gelu", ERF)
    monkeypatch.setattr("bench.suite.session.run_scenario", pytest.fail)
    done = run("--contenders", "erf-gelu")
    assert done.status == 1
    assert "tokens/s" not in done.output
    assert "failed: " in done.output


def test_a_wrong_text_fails_although_every_logit_is_right(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(model: Any, ids: Tensor, new: int) -> Tensor:
        return torch.cat([ids, generate(model, ids[:, 1:], new, temperature=0.0)[:, -new:]], dim=1)

    monkeypatch.setitem(CONTENDERS, "forgetful", replace(CONTENDERS["reference"], generate=forgetful))
    done = run("--contenders", "forgetful")
    assert done.status == 1
    assert done.proof("forgetful")["checks"][0]["failures"] == []
    assert "  forgetful: failed: text: a token in float32 is " in done.output


@pytest.mark.slow
def test_bfloat16_is_proven_twice_and_timed(run: Callable[..., Run]) -> None:
    done = run("--contenders", "huggingface-eager", "--precision", "bfloat16")
    assert done.status == 0, done.output
    function, rounding = done.proof("huggingface-eager")["checks"]
    assert (function["question"], function["precision"], function["weights"]) == ("function", "float32", "sharp")
    assert (rounding["question"], rounding["precision"], rounding["weights"]) == ("rounding", "bfloat16", "typical")
    assert done.speed("huggingface-eager")["forward"]["tokens_per_second"] > 0
    assert len(done.rows("huggingface-eager")) == 5
    assert "9/10 timing training steps of huggingface-eager" in done.errors


@pytest.mark.slow
def test_the_number_of_threads_is_restored(run: Callable[..., Run]) -> None:
    torch.set_num_threads(2)
    try:
        done = run("--contenders", "reference")
        assert done.result["environment"]["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


MISTAKES = {
    "--size gpt5": r"unknown size 'gpt5': give one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, tiny, .*",
    "--batch 0": r"--batch 0: give a whole number of at least 1",
    "--time 0": r"--time 0: tiny takes 1 to 64 tokens \(its block size\)",
    "--time 65": r"--time 65: tiny takes 1 to 64 tokens \(its block size\)",
    "--device abacus": r"unknown device 'abacus': this machine has auto, .*cpu",
    "--precision float8": r"unknown precision 'float8': give one of float64, float32, bfloat16",
    "--contenders reference gpt4all": r"unknown contender 'gpt4all': give some of reference, .*, or all",
    "--contenders reference reference": r"contender 'reference' is named twice: give each once",
    "--rounds 0": r"--rounds 0: give a whole number of at least 3",
    "--steps -1": r"--steps -1: give a whole number of at least 0",
    "--new-tokens -1": r"--new-tokens -1: give a whole number of at least 0",
    "--threads 0": r"--threads 0: give a whole number of at least 1",
    "--seed -1": r"--seed -1: give a whole number of at least 0",
    "--seed 9223372036854775808": r"--seed 9223372036854775808: give a number below 2\^63 = 9223372036854775808",
    "--seconds -1": r"--seconds -1\.0: give a number of at least 0",
    "--seconds nan": r"--seconds nan: give a number of at least 0",
    "--json .": r"--json \.: is a folder: give the name of a file",
    "--json file/result.json": r"cannot make the folder 'file': .*: give another --json",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_value(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench.compare.command, "measure", pytest.fail)
    Path("file").write_text("")
    assert main(["compare", "--size", "tiny", *mistake.split()]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"error: {MISTAKES[mistake]}\n", captured.err), captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "something was written"


def test_an_unwritable_folder_is_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr(bench.compare.command, "measure", pytest.fail)
    assert main(["compare", "--size", "tiny", "--json", "result.json"]) == 2
    assert capsys.readouterr().err == "error: cannot write into the folder '.': give another --json\n"


def test_too_little_memory_is_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.suite.session.available_bytes", lambda device: 4_000_000_000)
    monkeypatch.setattr(bench.compare.command, "measure", pytest.fail)
    assert main(["compare", "--size", "gpt2-xl", "--batch", "2"]) == 2
    assert re.fullmatch(
        r"error: gpt2-xl: its proof in float64 needs about \d+\.\d GB of memory, 4\.0 GB are free: "
        r"give a smaller --size, --batch or --time, fewer --contenders, or --steps 0\n",
        capsys.readouterr().err,
    )
    assert list(tmp_path.iterdir()) == []


def test_without_transformers_there_is_no_oracle_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "bench.contenders.huggingface_model", raising=False)
    assert main(["compare", "--size", "tiny", "--contenders", "reference"]) == 2
    assert capsys.readouterr().err == (
        "error: 'huggingface-eager' needs the package 'transformers', which is not installed: "
        "pip install transformers\n"
    )


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert finite({"a": [1.0, float("inf"), {"b": float("nan")}], "c": ("x", None, True)}) == {
        "a": [1.0, None, {"b": None}],
        "c": ["x", None, True],
    }


@pytest.mark.parametrize(
    "value,shown", [(12345.6, "12,346"), (999.94, "999.9"), (99.5, "99.50"), (1.5, "1.500"), (0.25, "0.250")]
)
def test_a_rate_has_four_digits(value: float, shown: str) -> None:
    assert significant(value) == shown


@pytest.mark.parametrize("count,shown", [(2_340_000_000, "2.34 GB"), (19_400_000, "19 MB"), (None, "n/a")])
def test_memory_is_shown_in_units(count: int | None, shown: str) -> None:
    assert size(count) == shown
