"""Changes between two results of one machine, judged by ratios if both have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.suite.diff import numbers
from bench.suite.result_file import save
from tests.bench.compare.made_up_compare import compare_result
from tests.bench.suite.made_up import ENVIRONMENT, case, result

REFERENCE, FULL = case("reference", 1000.0, 1.0), case("full", 2000.0, 2.0)


def entry(one: dict[str, Any], workload: str = "mini-64") -> dict[str, Any]:
    tasks = {"training_step": {"alone": one, "leave_one_out": None, "cumulative": one}}
    return {"rung": "sdpa", "workload": workload, "batch": 2, "time": 64, "tasks": tasks}


def point(rate: float, ratio: dict[str, float], batch: int = 2, **config: Any) -> dict[str, Any]:
    return {
        **{"axis": "time", "value": 64, "contender": "sdpa", "batch": batch, "time": 64},
        **{"config": {"block_size": 1024, "n_layer": 2, "bias": True, **config}, "tokens_per_second": rate},
        **{"spread": 0.01, "memory": 10**8, "ratios": {"plain": ratio}},
    }


def diff_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: Any, after: Any, *options: str
) -> tuple[int, str, str]:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    save(before, a)
    save(after, b)
    status = main(["diff", str(a), str(b), *options])
    out, error = capsys.readouterr()
    return status, out, error


def test_nothing_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = diff_of(tmp_path, capsys, result(), result())
    assert status == 0
    assert "2 numbers are in both; 0 changed by more than 5 % and their spread" in out
    assert "new:" not in out
    assert "gone:" not in out


def test_names_that_are_new_or_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = diff_of(tmp_path, capsys, result(), result(cases=[REFERENCE, case("sdpa", 1500.0, 1.5)]))
    assert "new: smoke/training/training_step/sdpa 8x64\n" in out
    assert "gone: smoke/training/training_step/full 8x64\n" in out
    assert "note: 8x64 is batch x time; 1x32+16 is texts x prompt + new tokens\n" in out
    assert "1 numbers are in both" in out


def test_a_loss_is_shown_with_both_rates_and_both_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = diff_of(tmp_path, capsys, result(), result(cases=[REFERENCE, case("full", 1500.0, 1.5)]))
    assert "2 numbers are in both; 1 changed" in out
    row = next(line for line in out.splitlines() if line.startswith("smoke/training/training"))
    assert row.split()[:7] == [
        *("smoke/training/training_step/full", "8x64"),
        *("2,000", "1,500", "0.75", "2.00", "1.50"),
    ]
    assert max(map(len, out.splitlines())) <= 100


def test_a_busy_machine_slows_all_contenders_and_changes_no_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = result(cases=[case("reference", 980.0, 1.0), case("full", 1500.0, 2.02)])
    _, out, _ = diff_of(tmp_path, capsys, result(), busy)
    assert "0 changed" in out


def test_a_difference_within_the_threshold_or_the_spread_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = result(cases=[REFERENCE, case("full", 1920.0, 1.92)])
    assert "0 changed by more than 5 %" in diff_of(tmp_path, capsys, result(), after)[1]
    assert "1 changed by more than 3 %" in diff_of(tmp_path, capsys, result(), after, "--threshold", "0.03")[1]
    noisy = {**case("full", 1920.0, 1.92), "spread": 0.2}
    assert (
        "0 changed" in diff_of(tmp_path, capsys, result(), result(cases=[REFERENCE, noisy]), "--threshold", "0.03")[1]
    )


def test_more_memory_is_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heavy = {**FULL, "memory": {**FULL["memory"], "peak": 3 * 10**8}}
    _, out, _ = diff_of(tmp_path, capsys, result(), result(cases=[REFERENCE, heavy]))
    assert "1 changed" in out
    assert "300 MB" in out


def of_kind(*sets: str, threads: int = 2, **limits: str) -> dict[str, Any]:
    kind = {"name": "AMD EPYC", "instruction_sets": list(sets), "limits": limits, "threads": threads}
    return result(environment={**ENVIRONMENT, "device": "AMD EPYC", "threads": threads, "identity": kind})


ZEN3, ZEN4 = of_kind("AVX2"), of_kind("AVX2", "AVX-512", "AVX-512 bfloat16")


@pytest.mark.parametrize(
    "before,after,why",
    [
        (ZEN3, ZEN4, "AMD EPYC (AVX2), 2 threads and AMD EPYC (AVX-512 bfloat16), 2 threads"),
        (ZEN3, of_kind("AVX2", threads=8), "AMD EPYC (AVX2), 2 threads and AMD EPYC (AVX2), 8 threads"),
        (
            ZEN3,
            of_kind("AVX2", ONEDNN_MAX_CPU_ISA="AVX2"),
            "AMD EPYC (AVX2), 2 threads and AMD EPYC (limited to AVX2), 2 threads",
        ),
        (
            of_kind("AVX2", ONEDNN_MAX_CPU_ISA="AVX2"),
            of_kind("AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2"),
            "AMD EPYC (limited to AVX2), 2 threads and AMD EPYC (limited to AVX2), 2 threads; "
            "limits: ONEDNN_MAX_CPU_ISA AVX2 and MKL_ENABLE_INSTRUCTIONS AVX2",
        ),
        (
            ZEN4,
            of_kind("AVX2", "AVX-512 bfloat16"),
            "AMD EPYC (AVX-512 bfloat16), 2 threads and AMD EPYC (AVX-512 bfloat16), 2 threads; "
            "instruction_sets: AVX2, AVX-512, AVX-512 bfloat16 and AVX2, AVX-512 bfloat16",
        ),
        (
            result(),
            result(environment={**ENVIRONMENT, "cpu_flags": ["avx2", "fma3"], "device_memory": 2 * 10**10}),
            "device_memory: 10000000000 and 20000000000; cpu_flags: avx2 and avx2, fma3",
        ),
    ],
)
def test_another_machine_is_refused_in_a_line_that_names_both(
    before: Any, after: Any, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    assert diff_of(tmp_path, capsys, before, after) == (
        2,
        "",
        f"error: {a} and {b} are of different machines ({why}): their rates do not say what changed in the code; "
        "give --across-machines to compare them all the same\n",
    )


def test_a_new_kernel_makes_no_other_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = {**ENVIRONMENT, "system": "Linux-6.18.45", "device_memory": ENVIRONMENT["device_memory"] - 12_288}
    status, out, error = diff_of(tmp_path, capsys, result(), result(environment=updated))
    assert (status, error) == (0, "")
    assert "system: Some system -> Linux-6.18.45\n" in out


def test_two_machines_are_compared_with_an_option_and_a_note_on_each_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = diff_of(tmp_path, capsys, ZEN3, ZEN4, "--across-machines")
    assert (status, error) == (0, "")
    assert "\nnote: another machine: AMD EPYC (AVX2), 2 threads and AMD EPYC (AVX-512 bfloat16), 2 threads\n" in out
    assert "2 numbers are in both" in out


def test_other_versions_and_proofs_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = {**ENVIRONMENT["packages"], "torch": "2.14.0"}
    after = result(environment={**ENVIRONMENT, "packages": packages, "commit": "1" * 40}, cases=[REFERENCE])
    after["parity"][1] |= {"passed": False, "why": "logits in float32: 3 times its budget"}
    _, out, _ = diff_of(tmp_path, capsys, result(), after)
    assert "torch: 2.13.0 -> 2.14.0\n" in out
    assert f"commit: {'0' * 40} -> {'1' * 40}\n" in out
    assert "proof: full at tiny fails now (logits in float32: 3 times its budget)\n" in out


def test_components_ablation_and_curves_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_rate(rate: float) -> dict[str, Any]:
        ratio = {"median": rate / 100, "low": rate / 101, "high": rate / 99}
        one = {"contender": "sdpa", "ratio": ratio, "tokens_per_second": rate, "spread": 0.01, "memory": 10**8}
        return result(
            components=[{"name": "mini/batches", "per_second": rate, "spread": 0.01, "memory": None}],
            ablation=[entry(one)],
            scaling=[point(rate, ratio)],
        )

    _, out, _ = diff_of(tmp_path, capsys, with_rate(100.0), with_rate(50.0))
    assert "6 numbers are in both; 4 changed" in out
    for name in ("components/mini/batches", "ablation/mini-64/training_step/sdpa/alone", "scaling/time/64/sdpa"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 100


RATIO = {"median": 2.0, "low": 1.9, "high": 2.1}
ALONE = {"contender": "sdpa", "ratio": RATIO, "tokens_per_second": 100.0, "spread": 0.01, "memory": 10**8}
FASTER = {**ALONE, "ratio": {**RATIO, "median": 4.0}, "tokens_per_second": 900.0}
TEXT = {key: value for key, value in case("full", 2000.0, 2.0, "per_token").items() if key != "time"}


@pytest.mark.parametrize(
    "what,before,after,name,was,now",
    [
        ("cases", REFERENCE, {**case("reference", 9000.0, 9.0), "time": 128}, "reference", "8x64", "8x128"),
        ("cases", REFERENCE, {**case("reference", 9000.0, 9.0), "batch": 1}, "reference", "8x64", "1x64"),
        *(
            ("cases", {**TEXT, "batch": 1, "prompt": 32, "new": 16}, {**TEXT, **other}, "full", "1x32+16", now)
            for other, now in (
                ({"batch": 8, "prompt": 32, "new": 16}, "8x32+16"),
                ({"batch": 1, "prompt": 16, "new": 16}, "1x16+16"),
                ({"batch": 1, "prompt": 32, "new": 32}, "1x32+32"),
            )
        ),
        ("ablation", entry(ALONE), entry(FASTER, "gpt2-128"), "training_step/sdpa/alone", "mini-64", "gpt2-128"),
        ("ablation", entry(ALONE), {**entry(FASTER), "batch": 8}, "training_step/sdpa/alone", "2x64", "8x64"),
        ("scaling", point(1.0, RATIO), point(9.0, RATIO, batch=4), "scaling/time/64/sdpa", "2x64", "4x64"),
        ("scaling", point(1.0, RATIO), point(9.0, RATIO, n_layer=4), "scaling/time/64/sdpa", "L2", "L4"),
        ("scaling", point(1.0, RATIO), point(9.0, RATIO, block_size=64), "scaling/time", "block 1024", "block 64"),
        ("scaling", point(1.0, RATIO), point(9.0, RATIO, bias=False), "scaling/time", "bias True", "bias False"),
    ],
)
def test_a_number_of_another_shape_is_new_and_not_changed(
    what: str,
    before: dict[str, Any],
    after: dict[str, Any],
    name: str,
    was: str,
    now: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = diff_of(
        tmp_path, capsys, result(**{"cases": [], what: [before]}), result(**{"cases": [], what: [after]})
    )
    assert "0 numbers are in both; 0 changed" in out
    for word, shape in (("gone", was), ("new", now)):
        (line, *_) = [line for line in out.splitlines() if line.startswith(f"{word}: ")]
        assert name in line
        assert shape in line


def test_two_comparisons_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = compare_result()
    for one in after["cases"]:
        if one["name"].endswith("generation/full"):
            one["tokens_per_second"] *= 2
            one["ratios"]["reference"]["median"] *= 2
    _, out, _ = diff_of(tmp_path, capsys, compare_result(), after)
    assert "12 numbers are in both; 1 changed" in out
    assert "generation/full 1x32+128" in " ".join(out.split())


def test_a_numbers_name_contains_the_whole_shape() -> None:
    made = result(cases=[{**TEXT, "batch": 1, "prompt": 32, "new": 16}], ablation=[entry(ALONE)], scaling=[])
    made["scaling"] = [point(1.0, RATIO, vocab_size=8192, n_head=4, n_embd=256)]
    assert list(numbers(made)) == [
        "smoke/training/per_token/full 1x32+16",
        "scaling/time/64/sdpa 2x64 block 1024 L2 bias True V8192 H4 C256",
        "ablation/mini-64/training_step/sdpa/alone 2x64",
        "ablation/mini-64/training_step/sdpa/cumulative 2x64",
    ]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"kind": "sui')
    assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2
    error = capsys.readouterr().err
    assert "a.json: is cut short or damaged" in error
    assert error.count("\n") == 1
