"""`python -m optimized`: the options and the runs of `python -m reference`, and the recipe."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import optimized.backend
import optimized.builder
import optimized.compilation
import optimized.recipe
import reference.cli.train as command
from bench.parity import measure_all
from optimized import FULL, RUNGS, Recipe
from optimized.__main__ import PACKAGE, start
from optimized.hardware import Hardware
from optimized.settings import Train
from reference import GPTConfig
from reference.checkpoints.checkpoint import load_newest
from reference.checkpoints.run_folder import read_log
from reference.cli.main import read_options
from reference.cli.progress import Lines
from tests.reference.cli.conftest import TRAIN, Cli, Result, tree

ROOT = Path(__file__).parents[2]
EXACT = [*TRAIN, "--dtype", "float64", "--dropout", "0"]
FULL_IN_FLOAT64 = ["--recipe", "full", "--without", "bf16", "compile"]
NO_RUNGS = ["--recipe", "plain"]


class OptimizedCli(Cli):
    """Runs `python -m optimized ARGUMENTS` in this process."""

    def __call__(self, *arguments: object) -> Result:
        self.capsys.readouterr()
        try:
            status = start([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        printed = self.capsys.readouterr()
        return Result(status, printed.out, printed.err)


@pytest.fixture
def fast(cli: Cli) -> Iterator[OptimizedCli]:
    """Beside `cli`, which is the readable package, in the same empty directory."""
    return OptimizedCli(cli.capsys)


@pytest.fixture(autouse=True)
def processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a CPU with bfloat16 instructions, a compiler and glibc."""
    on(monkeypatch)


def on(monkeypatch: pytest.MonkeyPatch, **other: Any) -> None:
    """Simulate another CPU."""
    here = dataclasses.replace(Hardware("cpu", bfloat16=True, compiler=True, keeps_memory=True), **other)
    monkeypatch.setattr(optimized.recipe, "hardware_of", lambda device: here)
    monkeypatch.setattr(optimized.builder, "computes_bfloat16", lambda: here.bfloat16)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Send Ctrl-C after the steps in this list."""
    steps: list[int] = []

    class Struck(Lines):
        def stepped(self, done: int) -> None:
            super().stepped(done)
            if done in steps:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(command, "display", Struck)
    return steps


def test_help_is_there_before_torch_is_imported() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "optimized", "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "usage: python -m optimized [-h] {train,sample,eval,plot}" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "optimized.settings" in imported
    assert "torch" not in imported


PICTURES = ["loss", "attention", "embedding", "histograms", "temperature"]


@pytest.mark.parametrize("subcommand", [["train"], ["sample"], ["eval"], *(["plot", picture] for picture in PICTURES)])
def test_every_option_of_the_other_package_is_there_and_the_recipe(
    cli: Cli, fast: OptimizedCli, monkeypatch: pytest.MonkeyPatch, subcommand: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    readable, own = (run(*subcommand, "--help").out.replace("│", "") for run in (cli, fast))
    options = {name: set(re.findall(r"^ *(--[a-z][\w-]*|\[RUN)", text, re.MULTILINE)) for name, text in
               (("readable", readable), ("own", own))}  # fmt: skip
    more = {"--recipe", "--with", "--without"} if subcommand[0] != "plot" else set()
    more |= {"--micro-batch"} if subcommand == ["train"] else set()
    assert options["own"] == options["readable"] | more
    for name in more:
        assert re.search(rf"{name} .*\(default: .+\)", " ".join(own.split())), f"{name} has no help or no default"
    if more:
        assert all(rung in own for rung in RUNGS)


def test_a_run_has_the_files_of_the_other_package_and_names_its_recipe(
    fast: OptimizedCli, trained: Path, tmp_path: Path
) -> None:
    result = fast(*TRAIN, "--without", "compile", "--micro-batch", "2", "--out", "run")
    assert result.status == 0, result.err
    assert result.err == ""
    lines = result.out.splitlines()
    left_out = ("bf16", "padded_vocab", "compile", "ddp")
    assert lines[2].endswith(", float32"), "what it computes in"
    assert lines[3] == f"recipe {', '.join(name for name in FULL.rungs if name not in left_out)}"
    assert lines[4] == (
        "left out: padded_vocab (padding would make a vocabulary of 27 more than 5 % larger), "
        "bf16 (products of width 16 are too small to win back the conversions to bfloat16)"
    )
    assert lines[-1] == "Next: python -m optimized sample run   or   python -m optimized plot attention run"
    assert tree(tmp_path / "run").keys() == tree(trained).keys()
    checkpoint, _ = load_newest(tmp_path / "run")
    assert checkpoint.run["package"] == "optimized"
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["recipe"] == "best"
    assert settings["without_rungs"] == ["compile"]
    assert settings["micro_batch"] == 2
    assert settings == checkpoint.run["settings"]


@pytest.mark.slow
def test_a_run_with_compile_says_what_compiling_took(fast: OptimizedCli) -> None:
    result = fast(*TRAIN, *NO_RUNGS, "--with", "compile")
    assert result.status == 0, result.err
    said = re.search(r"^Compiling took ([\d.]+) seconds of that, for 1 graph\.$", result.out, re.MULTILINE)
    assert said, result.out
    assert float(said[1]) > 0


def test_the_plain_recipe_in_float32_trains_to_the_same_bits_as_the_other_package(
    cli: Cli, fast: OptimizedCli, tmp_path: Path
) -> None:
    dropout = [*TRAIN, "--dropout", "0.2"]
    assert fast(*dropout, *NO_RUNGS, "--out", "fast").status == 0
    assert cli(*dropout, "--out", "readable").status == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = ((tmp_path / run / "step-000012" / name).read_bytes() for run in ("fast", "readable"))
        assert a == b, name
    logs = [[{**r, "tokens_per_second": 0} for r in read_log(tmp_path / run)] for run in ("fast", "readable")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    "recipe", [pytest.param(NO_RUNGS, marks=pytest.mark.slow), FULL_IN_FLOAT64], ids=["plain", "full"]
)
def test_a_run_that_changes_packages_twice_ends_with_the_weights_of_one_that_did_not(
    cli: Cli, fast: OptimizedCli, stop_at: list[int], recipe: list[str]
) -> None:
    assert cli(*EXACT, "--out", "whole").status == 0
    stop_at[:] = [3, 7]
    assert cli(*EXACT, "--out", "run").status == 130
    assert fast("train", "--resume", "run", *recipe).status == 130
    assert cli("train", "--resume", "run").status == 0
    actual, expected = load_newest(Path("run"))[0], load_newest(Path("whole"))[0]
    assert (actual.step, actual.run["package"]) == (12, "reference")
    for measured in measure_all("update", actual.model, expected.model):
        bound = 0.0 if recipe == NO_RUNGS else 1e-9
        assert measured.error <= bound, f"{measured.name} is off by {measured.error:.1e}"
    steps = [r["step"] for r in read_log(Path("run")) if "validation_loss" in r]
    assert steps == [0, 5, 10, 12]


@pytest.mark.slow
def test_the_other_way_round_too_and_a_resumed_run_keeps_its_recipe(
    cli: Cli, fast: OptimizedCli, stop_at: list[int]
) -> None:
    assert cli(*EXACT, "--out", "whole").status == 0
    stop_at[:] = [2, 6, 9]
    assert fast(*EXACT, *FULL_IN_FLOAT64, "--out", "run").status == 130
    result = fast("train", "--resume", "run")
    assert result.status == 130
    assert "recipe fused_qkv, sdpa, fused_kernels, padded_vocab, fused_loss, " in result.out
    assert cli("train", "--resume", "run").status == 130
    assert "recipe plain" in fast("train", "--resume", "run", *NO_RUNGS, "--without").out
    actual, expected = load_newest(Path("run"))[0], load_newest(Path("whole"))[0]
    assert actual.step == 12
    for measured in measure_all("update", actual.model, expected.model):
        assert measured.error <= 1e-9, f"{measured.name} is off by {measured.error:.1e}"


@pytest.mark.slow
def test_micro_batches_change_nothing_that_is_learned(fast: OptimizedCli) -> None:
    for out, rows in (("whole", "4"), ("single", "1")):
        assert fast(*EXACT, *NO_RUNGS, "--micro-batch", rows, "--out", out).status == 0
    whole, single = (load_newest(Path(out))[0] for out in ("whole", "single"))
    for measured in measure_all("update", single.model, whole.model):
        assert measured.error <= 1e-10, f"{measured.name} is off by {measured.error:.1e}"
    assert any(not torch.equal(t, single.model[name]) for name, t in whole.model.items()), "was it used at all?"


REFUSED = [
    ("--with fused_everything", "unknown rung 'fused_everything': give some of fused_qkv, sdpa, "),
    ("--without speed", "unknown rung 'speed': give some of fused_qkv, sdpa, "),
    ("--recipe fast", "--recipe fast: give one of best, full, plain; rungs are switched by --with, --without"),
    ("--with tf32 --without tf32", "--with tf32 and --without tf32: give one of them"),
    (
        "--dtype float64 --recipe full",
        "the rung bf16 and float64 weights do not go together: leave bf16 out of the recipe, or choose",
    ),
    ("--with tf32", "the rung tf32 and the device cpu do not go together: leave tf32 out of the recipe, or choose"),
    ("--micro-batch 0", "--micro-batch 0: give a whole number of at least 1"),
    ("--micro-batch 3", "--micro-batch 3: does not divide the 4 sequences of each process (--batch-size 4, 1 process)"),
    ("--steps 0", "--steps 0: give a whole number of at least 1"),
]


@pytest.mark.parametrize("options, says", REFUSED, ids=[options for options, _ in REFUSED])
def test_an_invalid_recipe_is_one_line_and_nothing_is_written(
    fast: OptimizedCli, tmp_path: Path, options: str, says: str
) -> None:
    result = fast(*TRAIN, *options.split())
    assert says in result.message
    assert result.status == 2
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("subcommand", ["sample", "eval"])
@pytest.mark.parametrize(
    "options, says",
    [
        ("--with speed", "unknown rung 'speed': give some of"),
        ("--recipe fast", "--recipe fast: give one of best, full, plain"),
        ("--recipe full", "the rung bf16 and float64 weights do not go together: leave bf16 out of the recipe"),
    ],
)
def test_an_invalid_recipe_is_refused_where_a_run_is_used(
    fast: OptimizedCli, exact: Path, subcommand: str, options: str, says: str
) -> None:
    result = fast(subcommand, exact, "--device", "cpu", *options.split())
    assert says in result.message
    assert result.status == 2


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float64; read it, do not change it."""
    run = tmp_path_factory.mktemp("exact") / "run"
    threads = torch.get_num_threads()
    assert start([*EXACT, *NO_RUNGS, "--out", str(run)]) == 0
    torch.set_num_threads(threads)
    return run


@pytest.mark.parametrize("recipe", [[], NO_RUNGS, ["--without", "kv_cache"]], ids=" ".join)
def test_both_packages_write_the_same_text_and_measure_the_same_loss(
    cli: Cli, fast: OptimizedCli, exact: Path, recipe: list[str]
) -> None:
    """In float64, where no rung rounds visibly."""
    write = ["sample", exact, "--tokens", "30", "--samples", "2", "--prompt", "mary had", "--device", "cpu"]
    assert fast(*write, *recipe).out == cli(*write).out
    measure = ["eval", exact, "--split", "both", "--device", "cpu"]
    assert fast(*measure, *recipe).out == cli(*measure).out


def test_a_float32_run_is_used_in_bf16_if_told(fast: OptimizedCli, trained: Path) -> None:
    measure = ["eval", trained, "--device", "cpu"]
    rounded, exact = fast(*measure, "--with", "bf16").out, fast(*measure).out
    losses = [float(re.findall(r"loss ([\d.]+) per token", text)[0]) for text in (rounded, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_sample_compiles_only_if_told(fast: OptimizedCli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, built = optimized.backend.build, []

    def watched(config: GPTConfig, recipe: Recipe, *others: Any) -> Any:
        built.append(recipe)
        return build(config, recipe, *others)

    monkeypatch.setattr(optimized.backend, "build", watched)
    for more in ([], ["--with", "compile"]):
        assert fast("sample", trained, "--tokens", "2", "--prompt", "mary", "--device", "cpu", *more).status == 0
    best = FULL.without("bf16", "padded_vocab", "kept_memory", "fused_adamw", "ddp")
    assert built == [best.without("compile"), best]


def test_a_plot_of_attention_is_that_of_the_readable_model(fast: OptimizedCli, exact: Path) -> None:
    assert fast("plot", "attention", exact, "--device", "cpu", "--out", "attention.png").status == 0
    assert Path("attention.png").read_bytes().startswith(b"\x89PNG")


def test_a_warning_is_one_line_without_its_place_in_the_code(
    fast: OptimizedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, bfloat16=False, compiler=False)
    monkeypatch.setattr(optimized.compilation.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):  # the second run of a process says it as well
        result = fast(*TRAIN, "--recipe", "full")
        assert result.status == 0
        notes = result.err.splitlines()
        assert len(notes) == 2, result.err
        assert notes[0].startswith("note: bf16: this CPU has no bfloat16 instructions"), notes
        assert notes[1].startswith("note: compile: no C++ compiler (g++) on this machine"), notes


def test_the_header_says_the_precision_that_is_used_and_why_a_rung_is_left_out(
    fast: OptimizedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [*TRAIN, "--steps", "1", "--width", "256", "--without", "compile"]
    lines = fast(*wide).out.splitlines()
    assert lines[2].endswith(", bfloat16 products of float32 weights")
    assert lines[4].startswith("left out: padded_vocab (")
    assert "bf16" not in lines[4]
    on(monkeypatch, bfloat16=False)
    result = fast(*wide)
    assert result.err == "", "not a warning: nothing is slow"
    lines = result.out.splitlines()
    assert lines[2].endswith(", float32")
    assert lines[4].endswith("bf16 (this CPU has no bfloat16 instructions and would emulate them)")
    asked = fast(*wide, "--with", "bf16")
    assert asked.out.splitlines()[2].endswith(", bfloat16 products of float32 weights"), "who asks for it has it"
    assert asked.err.startswith("note: bf16: this CPU has no bfloat16 instructions and emulates them")


def test_saved_settings_are_read_back_as_they_were() -> None:
    options = read_options(PACKAGE, ["train", "--with", "tf32", "--without", "bf16", "sdpa", "--micro-batch", "3"])
    assert isinstance(options, Train)
    assert Train.from_json(json.loads(json.dumps(options.to_json()))) == options
