"""Peak memory of a function in its own process, without the memory held before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.timing.fresh_process import Call
from bench.timing.peak_memory import peak_memory
from bench.timing.worker import crew, job
from bench.workloads.memory import activation_bytes, available_bytes, needed_bytes
from bench.workloads.workload import Workload, workload
from reference import GPTConfig

MODULE = """
def block(megabytes):
    return b"1" * (megabytes * 1_000_000)  # written, so that it is resident

def hold(argument):
    before = block(argument.get("before", 0))
    def run():
        held = block(argument["megabytes"])
        del held
        return argument.get("counted")
    run.before = before
    return run

def sleep(argument):
    import time
    time.sleep(60)

def fail(argument):
    print("nothing that is an answer")
    raise OSError("no such luck")
"""


@pytest.fixture(autouse=True)
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def megabytes(argument: dict[str, int]) -> float:
    return peak_memory("blocks:hold", argument).bytes / 1e6


def test_a_block_of_200_mb_is_measured_although_it_is_freed() -> None:
    assert megabytes({"megabytes": 200}) == pytest.approx(200, rel=0.1)


def test_memory_held_before_does_not_count() -> None:
    assert megabytes({"megabytes": 200, "before": 150}) == pytest.approx(200, rel=0.1)


def test_a_large_parent_changes_nothing() -> None:
    parents = b"1" * 400_000_000
    assert megabytes({"megabytes": 200}) == pytest.approx(200, rel=0.1), f"beside {len(parents)} bytes of the parent"


def test_a_devices_own_count_is_the_peak() -> None:
    peak = peak_memory("blocks:hold", {"megabytes": 1, "counted": 12345})
    assert (peak.bytes, peak.method) == (12345, "device")


def test_a_function_that_fails_is_an_error_with_its_last_line() -> None:
    with pytest.raises(RuntimeError, match=r"memory of blocks:fail failed with status 1: OSError: no such luck"):
        peak_memory("blocks:fail", {})


def test_a_process_that_takes_too_long_is_ended() -> None:
    call = Call("blocks:sleep", {}, "sleeping")
    with pytest.raises(RuntimeError, match=r"^sleeping took longer than 0 s$"):
        call.result(timeout=0.1)
    assert call.process.poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_estimate_is_close_to_the_peak_of_a_training_step_of_the_reference(precision: str) -> None:
    config = GPTConfig(block_size=128, vocab_size=2000, n_layer=4, n_head=4, n_embd=128)
    work = Workload("some", config, batch=8, time=128)
    width = 8 if precision == "float64" else 4
    estimate = 4 * width * config.parameter_count() + activation_bytes(work, width)
    with crew([job("reference", work, "step", precision, torch.device("cpu"))]) as workers:
        for _ in range(2):  # weights, moments, activations and gradients all exist only in the second step
            workers["reference"].time("training_step")
        measured = workers["reference"].peak().bytes
    assert 0.75 <= estimate / measured <= 1.35, f"{estimate / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured"


def test_a_larger_workload_needs_more() -> None:
    work = workload("gpt2", 2, 256)
    need = needed_bytes(work, "float32", 3, 2)
    assert need >= 3 * 16 * work.config.parameter_count()
    assert needed_bytes(work, "float64", 3, 2) > need
    assert needed_bytes(work, "float32", 4, 2) > need
    assert needed_bytes(replace(work, batch=16), "float32", 3, 2) > need
    assert needed_bytes(replace(work, time=1024), "float32", 3, 2) > need
    one = needed_bytes(work, "float32", 1, 2)
    assert one > needed_bytes(work, "float32", 1, 0), "the moments of the float64 oracle are not counted"


def test_free_memory_is_known_on_this_machine() -> None:
    free = available_bytes(torch.device("cpu"))
    assert free is not None
    assert free > 10**8
