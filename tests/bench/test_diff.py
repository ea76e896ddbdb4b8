"""What changed between two results: on one machine, and told by ratios where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.suite_results import save
from tests.bench.made_up import ENVIRONMENT, case, result

REFERENCE, FULL = case("reference", 1000.0, 1.0), case("full", 2000.0, 2.0)


def told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: Any, after: Any, *options: str
) -> tuple[int, str, str]:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    save(before, a)
    save(after, b)
    status = main(["diff", str(a), str(b), *options])
    out, error = capsys.readouterr()
    return status, out, error


def test_nothing_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(tmp_path, capsys, result(), result())
    assert status == 0
    assert "2 numbers are in both; 0 changed by more than 5 % and their spread" in out
    assert "new:" not in out
    assert "gone:" not in out


def test_names_that_are_new_or_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(tmp_path, capsys, result(), result(cases=[REFERENCE, case("sdpa", 1500.0, 1.5)]))
    assert "new: smoke/training/training_step/sdpa\n" in out
    assert "gone: smoke/training/training_step/full\n" in out
    assert "1 numbers are in both" in out


def test_a_loss_is_told_with_both_rates_and_both_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(tmp_path, capsys, result(), result(cases=[REFERENCE, case("full", 1500.0, 1.5)]))
    assert "2 numbers are in both; 1 changed" in out
    row = next(line for line in out.splitlines() if line.startswith("smoke/training/training"))
    assert row.split()[1:6] == ["2,000", "1,500", "0.75", "2.00", "1.50"]
    assert max(map(len, out.splitlines())) <= 100


def test_a_machine_that_was_busy_slows_all_and_is_no_change_of_a_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = result(cases=[case("reference", 980.0, 1.0), case("full", 1500.0, 2.02)])
    _, out, _ = told(tmp_path, capsys, result(), busy)
    assert "0 changed" in out


def test_less_than_the_threshold_or_the_spread_is_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = result(cases=[REFERENCE, case("full", 1920.0, 1.92)])
    assert "0 changed by more than 5 %" in told(tmp_path, capsys, result(), after)[1]
    assert "1 changed by more than 3 %" in told(tmp_path, capsys, result(), after, "--threshold", "0.03")[1]
    noisy = {**case("full", 1920.0, 1.92), "spread": 0.2}
    assert "0 changed" in told(tmp_path, capsys, result(), result(cases=[REFERENCE, noisy]), "--threshold", "0.03")[1]


def test_more_memory_is_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heavy = {**FULL, "memory": {**FULL["memory"], "peak": 3 * 10**8}}
    _, out, _ = told(tmp_path, capsys, result(), result(cases=[REFERENCE, heavy]))
    assert "1 changed" in out
    assert "300 MB" in out


def test_another_machine_is_refused_unless_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = result(environment={**ENVIRONMENT, "threads": 8, "cpu": "Other CPU"})
    status, out, error = told(tmp_path, capsys, result(), other)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert "are of different machines (cpu: Some CPU and Other CPU; threads: 2 and 8)" in error
    assert error.count("\n") == 1
    status, out, error = told(tmp_path, capsys, result(), other, "--across-machines")
    assert status == 0
    assert "note: another machine: threads: 2 and 8" in out


def test_other_versions_and_proofs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = {**ENVIRONMENT["packages"], "torch": "2.14.0"}
    after = result(environment={**ENVIRONMENT, "packages": packages, "commit": "1" * 40}, cases=[REFERENCE])
    after["parity"][1] |= {"passed": False, "why": "logits in float32: 3 times the error that is allowed"}
    _, out, _ = told(tmp_path, capsys, result(), after)
    assert "torch: 2.13.0 -> 2.14.0\n" in out
    assert f"commit: {'0' * 40} -> {'1' * 40}\n" in out
    assert "proof: full at tiny fails now (logits in float32: 3 times the error that is allowed)\n" in out


def test_parts_prices_and_curves_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_rate(rate: float) -> dict[str, Any]:
        ratio = {"median": rate / 100, "low": rate / 101, "high": rate / 99}
        one = {"contender": "sdpa", "ratio": ratio, "tokens_per_second": rate, "spread": 0.01, "memory": 10**8}
        return result(
            parts=[{"name": "mini/batches", "per_second": rate, "spread": 0.01, "memory": None}],
            prices=[{"rung": "sdpa", "tasks": {"training_step": {"alone": one, "without": None, "cumulative": one}}}],
            scaling=[
                {
                    "axis": "time",
                    "value": 64,
                    "contender": "sdpa",
                    "tokens_per_second": rate,
                    "spread": 0.01,
                    "memory": 10**8,
                    "ratios": {"plain": ratio},
                }
            ],
        )

    _, out, _ = told(tmp_path, capsys, with_rate(100.0), with_rate(50.0))
    assert "6 numbers are in both; 4 changed" in out
    for name in ("parts/mini/batches", "prices/training_step/sdpa/alone", "scaling/time/64/sdpa"):
        assert name in out


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"kind": "sui')
    assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2
    error = capsys.readouterr().err
    assert "a.json: is cut short or damaged" in error
    assert error.count("\n") == 1
