"""`python -m bench compare`: the table, the file, the exit status, and every mistake in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import bench.compare.command
from bench.__main__ import main
from bench.compare.command import Timing, left_out_by_best
from bench.compare.result_file import VERSION
from bench.compare.tables import first_calls, warnings
from bench.contenders import CONTENDERS, USUAL
from bench.environment import identity_in_words
from bench.formatting import significant, size
from bench.journal import finite
from optimized.hardware import Hardware
from reference import SIZES
from reference.cli.progress import Stages
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

    def contender(self, name: str) -> dict[str, Any]:
        (found,) = (one for one in self.result["contenders"] if one["name"] == name)
        return found  # type: ignore[no-any-return]

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
    return Run(done.returncode, done.stdout, done.stderr, json.loads(file.read_text()))


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
    assert [one["name"] for one in comparison.result["contenders"]] == list(NAMES)
    for one in comparison.result["contenders"]:
        assert one["proof"]["passed"]
        check, rounding = one["proof"]["checks"]
        assert check["failures"] == []
        assert 0.0 < check["over"] <= 1.0
        assert check["top1"] == 1.0
        assert (rounding is None) == (one["name"] != "bf16"), "the rounding check is only for bfloat16"
        assert one["precision"] == ("bfloat16" if one["name"] == "bf16" else "float32")
        assert {"logits", "loss", "gradient", "trajectory"} == check["worst"].keys()
        assert check["worst"]["gradient"]["name"].endswith((".weight", ".bias"))
        for what, tokens in {"forward": 2 * 16, "training_step": 2 * 16, "generation": 4}.items():
            speed = one["speed"][what]
            middle = sorted(speed["seconds"])[1]
            assert len(speed["seconds"]) == 3
            assert speed["first"] > 0
            assert speed["first"] not in speed["seconds"]
            assert speed["tokens_per_second"] == pytest.approx(tokens / middle)
            assert speed["rounds"] == [3]
            ((base, ratio),) = speed["ratios"].items()
            assert base == "reference"
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
        weights = 4 * 4 * comparison.result["workload"]["parameters"]
        assert 0.5 * weights < one["memory"]["peak"] < 200e6
        assert one["memory"]["method"] == "resident"
    assert comparison.contender("reference")["speed"]["forward"]["ratios"]["reference"]["median"] == 1.0


def test_the_heading_shows_each_precision(comparison: Run) -> None:
    assert "batch 2 x time 16, float32; bf16: bfloat16\n" in comparison.output


def test_each_rung_that_the_best_recipe_leaves_out_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware("cpu", bfloat16=False, compiler=True, keeps_memory=True)
    monkeypatch.setattr("optimized.recipe.hardware_of", lambda device: hardware)
    config, cpu = SIZES["mini"], torch.device("cpu")
    assert "optimized" in USUAL, "it takes part unless others are named"
    assert left_out_by_best(USUAL, cpu, "float32", config) == [
        "optimized leaves out bf16: this CPU has no bfloat16 instructions and would emulate them"
    ]
    assert left_out_by_best(["reference"], cpu, "float32", config) == []


def test_the_ratio_is_the_quotient_of_the_times(comparison: Run) -> None:
    ours, theirs = (comparison.contender(name)["speed"]["training_step"] for name in NAMES)
    by_hand = sorted(a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True))[1]
    assert theirs["ratios"]["reference"]["median"] == pytest.approx(by_hand)


def test_the_file_has_the_workload_and_the_environment(comparison: Run) -> None:
    result = comparison.result
    assert (result["kind"], result["version"]) == ("compare", VERSION)
    assert result["workload"]["size"] == "tiny"
    assert (result["workload"]["batch"], result["workload"]["time"]) == (2, 16)
    assert result["workload"]["precision"] == "float32"
    assert result["workload"]["flops"]["training_step"] == 3 * result["workload"]["flops"]["forward"]
    assert result["arguments"]["threads"] == 1
    assert result["environment"]["threads"] == result["environment"]["identity"]["threads"] == 1
    assert f"\non {identity_in_words(result['environment']['identity'])} of " in comparison.output
    assert result["environment"]["packages"]["torch"] == torch.__version__
    check, rounding = result["proof"]
    assert (check["question"], rounding["question"]) == ("function", "rounding")
    assert check["oracle"] == "huggingface-eager in float64"
    assert (check["shape"], check["gradient_shape"], check["steps"]) == ([2, 16], [2, 16], 2)


def test_the_tables_have_a_row_for_each_and_fit_into_100_columns(comparison: Run) -> None:
    lines = comparison.output.splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert "…" not in comparison.output, "something is cut off"
    assert "\x1b" not in comparison.output, "colours without a terminal"
    for name in NAMES:
        proof, *rounding, speed, written = comparison.rows(name)
        assert len(rounding) == (name == "bf16")
        assert significant(comparison.contender(name)["speed"]["generation"]["tokens_per_second"]) in written
        gradient = comparison.contender(name)["proof"]["checks"][0]["worst"]["gradient"]
        assert f"{gradient['error']:.1e} {gradient['name']}" in proof
        tokens = comparison.contender(name)["speed"]["training_step"]["tokens_per_second"]
        assert significant(tokens) in speed
        assert size(comparison.contender(name)["memory"]["peak"]) in speed
    assert "at batch 2 x time 16; 2 AdamW steps" in comparison.output
    assert "huggingface-eager in float64" in comparison.output
    assert re.search(r"everything that was measured: runs/compare/\d{8}-\d{6}\.json$", comparison.output.strip())


def test_every_stage_is_a_line_on_standard_error_without_a_terminal(comparison: Run) -> None:
    own = (line for line in comparison.errors.splitlines() if not TORCHS_OWN.match(line))
    # notes appear if bfloat16 is emulated or there is no compiler
    lines = [line for line in own if not line.startswith(("loading PyTorch (", "note: "))]
    stages = [re.fullmatch(r"(\d+)/(\d+) (\w.*) \(\d+ s\)", line) for line in lines]
    assert all(stages), comparison.errors
    assert [int(one[1]) for one in stages if one] == list(range(1, 11))
    assert {one[2] for one in stages if one} == {"10"}


def test_a_wrong_contender_gets_no_speed_and_the_status_is_1(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "erf-gelu", ERF)
    done = run("--contenders", "reference", "erf-gelu", "--precision", "float64")
    assert done.status == 1
    right, wrong = done.contender("reference"), done.contender("erf-gelu")
    assert right["proof"]["passed"]
    assert "speed" in right
    assert not wrong["proof"]["passed"]
    assert not {"speed", "memory"} & wrong.keys()
    proof, verdict = done.rows("erf-gelu")
    assert proof.endswith(" FAILED")
    worst = wrong["proof"]["checks"][0]["failures"][0]
    name = "" if worst["name"] == worst["quantity"] else f" {worst['name']}"
    expected = f"failed: {worst['quantity']}{name} {worst['error']:.1e}, allowed {worst['allowed']:.1e}"
    assert verdict.strip() == f"{'erf-gelu':<17}  {expected}"
    assert {f["quantity"] for f in wrong["proof"]["checks"][0]["failures"]} >= {"logits", "gradient"}
    assert len(done.rows("reference")) == 3


def test_each_task_is_one_stage_also_in_several_groups(capsys: pytest.CaptureFixture[str]) -> None:
    timing = Timing(Stages(2))
    for names in (["reference", "full"], ["reference", "sdpa"]):
        for task in ("forward", "training_step"):
            timing.task(task, names)
            timing.round(task, 1)
    lines = [line.rpartition(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["1/2 timing forward passes of reference, full", "2/2 timing training steps of reference, full"]


@pytest.mark.slow
def test_the_others_are_measured_against_the_first_that_is_proven(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "nan", NAN)
    done = run("--contenders", "nan", "huggingface-sdpa", "reference")
    assert done.status == 1
    assert "speed" not in done.contender("nan")
    assert done.contender("nan")["proof"]["checks"][0]["worst"]["logits"]["error"] is None, "JSON has no infinity"
    assert done.contender("reference")["speed"]["forward"]["ratios"].keys() == {"huggingface-sdpa"}
    assert re.search(r"nan +failed: logits inf, allowed 5\.0e-06", done.output)


def test_without_a_proven_contender_nothing_is_timed(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "erf-gelu", ERF)
    monkeypatch.setattr(bench.compare.command, "time_in_turn", pytest.fail)
    done = run("--contenders", "erf-gelu")
    assert done.status == 1
    assert "tokens/s" not in done.output
    assert "failed: " in done.output


@pytest.mark.slow
def test_bfloat16_is_proven_twice_and_timed(run: Callable[..., Run]) -> None:
    done = run("--contenders", "huggingface-eager", "--precision", "bfloat16")
    assert done.status == 0, done.output
    function, rounding = done.result["proof"]
    assert (function["question"], function["precision"], function["weights"]) == ("function", "float32", "sharp")
    assert (rounding["question"], rounding["precision"], rounding["weights"]) == ("rounding", "bfloat16", "typical")
    (speed,) = (one["speed"] for one in done.result["contenders"])
    assert speed["forward"]["tokens_per_second"] > 0
    assert len(done.rows("huggingface-eager")) == 4
    assert "8/9 timing training steps of huggingface-eager" in done.errors


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
    "--json file/result.json": r"cannot make the folder 'file': .*",
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
    monkeypatch.setattr(bench.compare.command, "available_bytes", lambda device: 4_000_000_000)
    monkeypatch.setattr(bench.compare.command, "measure", pytest.fail)
    assert main(["compare", "--size", "gpt2-xl", "--batch", "2"]) == 2
    assert re.fullmatch(
        r"error: comparing 3 contenders at size gpt2-xl, batch 2, time 128 in float32 "
        r"needs about \d+\.\d GB of memory, 4\.0 GB are free: "
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


def test_a_first_call_that_took_a_second_longer_is_reported() -> None:
    calls = {"reference": (1.6, [1.0, 0.9, 1.1]), "full": (9.4, [0.5, 0.4, 0.4])}
    proven = [
        {"name": name, "speed": {"training_step": {"first": first, "seconds": seconds}}}
        for name, (first, seconds) in calls.items()
    ]
    assert first_calls(proven, "training_step") == [
        "the first one took longer, by its compiling and allocating: full 9 s."
    ]
    assert first_calls(proven[:1], "training_step") == []


def test_notes_report_a_busy_machine_and_missing_instructions() -> None:
    environment = {"device_kind": "cpu", "cores": {"logical": 2}, "load": 1.7, "computes_bfloat16": False}
    result = {"workload": {"precision": "float32"}, "environment": environment, "contenders": []}
    assert len(warnings(result)) == 1, "nothing computes in bfloat16"
    result["contenders"] = [{"precision": "bfloat16"}]
    slow, busy = warnings(result)
    assert "no bfloat16 instructions" in slow
    assert busy.startswith("note: the machine was busy before this began (load 1.7 on 2 cores)")
    environment |= {"load": 0.1, "computes_bfloat16": True}
    assert warnings(result) == []


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
