"""What is recorded beside every number."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.environment import (
    LIMITS,
    ROOT,
    capabilities,
    clocks,
    clocks_after_work,
    commit,
    computes_bfloat16,
    cpu_name,
    environment,
    identity,
    identity_in_words,
    nvidia_smi,
    package_version,
)

# as torch writes it, and as the driver's tool does after its "GPU-"
UUID = "5f3c9b52-7d53-8a1e-0f1c-0123456789ab"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)

Told = Callable[[str], Path]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Puts a tool in the place of the driver's, which prints a line; returns where it writes what it was asked."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID))

    def put(line: str, status: int = 0) -> Path:
        tool, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
        tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho "{line}"\nexit {status}\n')
        tool.chmod(0o755)
        return asked

    return put


def test_the_machine_and_the_software_are_recorded_as_plain_values() -> None:
    found = environment(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == found["cpu"] == found["identity"]["name"]
    assert found["identity"]["threads"] == found["threads"]
    assert found["cores"]["logical"] >= 1
    assert found["device_memory"] > 10**8


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("no-such-package") is None


@pytest.mark.parametrize("answer", [True, False])
def test_whether_a_cpu_computes_bfloat16_is_what_torch_may_use(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.training.cpu.computes_bfloat16", lambda: answer)
    assert computes_bfloat16(CPU) is answer
    assert environment(CPU)["computes_bfloat16"] is answer
    assert computes_bfloat16(torch.device("mps")) is None, "cannot be told"


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The identity in words of a CPU of some instruction sets, under some limits."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bench.environment.cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def kind(*sets: str, kernels: str = "AVX2", **limits: str) -> str:
        monkeypatch.setattr("reference.training.cpu.instruction_sets", lambda: sets)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
        with monkeypatch.context() as context:
            for name, value in limits.items():
                context.setenv(name, value)
            return identity_in_words(identity(CPU))

    return kind


def test_two_kinds_of_cpu_that_have_one_name_have_two_identities(kind: Callable[..., str]) -> None:
    assert kind("AVX2") == "AMD EPYC (AVX2), 2 threads"
    assert kind("AVX2", "AVX-512", "AVX-512 bfloat16") == "AMD EPYC (AVX-512 bfloat16), 2 threads"
    assert kind() == f"AMD EPYC ({platform.machine()}), 2 threads", "nothing that matters"


@pytest.mark.parametrize(
    "limits",
    [
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"DNNL_MAX_CPU_ISA": "avx2"},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "ALL"},
    ],
    ids=str,
)
def test_a_limited_machine_is_never_taken_for_the_real_one(limits: dict[str, str], kind: Callable[..., str]) -> None:
    assert kind("AVX2", **limits) == "AMD EPYC (limited to AVX2), 2 threads"


def test_under_a_limit_all_sets_are_named_as_one_in_between_may_be_missing(kind: Callable[..., str]) -> None:
    left = ("AVX2", "AVX-512 bfloat16")
    assert kind(*left, ATEN_CPU_CAPABILITY="avx2") == "AMD EPYC (limited to AVX2, AVX-512 bfloat16), 2 threads"
    nothing = kind(kernels="DEFAULT", ATEN_CPU_CAPABILITY="default")
    assert nothing == f"AMD EPYC (limited to {platform.machine()}), 2 threads"


@pytest.mark.parametrize(
    "variables",
    [
        {"ONEDNN_MAX_CPU_ISA": "ALL"},
        {"ONEDNN_MAX_CPU_ISA": "all", "DNNL_MAX_CPU_ISA": "AVX2"},
        {"DNNL_MAX_CPU_ISA": "DEFAULT"},
        {"ATEN_CPU_CAPABILITY": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "sse"},
        {"ATEN_CPU_CAPABILITY": ""},
    ],
    ids=str,
)
def test_a_variable_that_is_not_heeded_or_asks_for_everything_is_no_limit(
    variables: dict[str, str], kind: Callable[..., str]
) -> None:
    assert kind("AVX2", **variables) == "AMD EPYC (AVX2), 2 threads"


def test_the_threads_are_those_that_compute_and_one_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert identity_in_words(identity(CPU)).endswith("), 1 thread")


def test_an_accelerator_is_known_by_its_name_whatever_cpu_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert identity_in_words(identity(GPU)) == "NVIDIA H100 80GB HBM3"


@pytest.mark.skipif(not capabilities().get("avx2"), reason="this CPU has no AVX2 to be limited to")
def test_a_process_that_is_limited_to_avx2_says_so() -> None:
    code = (
        "import torch; from bench.environment import computes_bfloat16, identity, identity_in_words; "
        "cpu = torch.device('cpu'); print(computes_bfloat16(cpu), identity_in_words(identity(cpu)))"
    )
    limited = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | limited, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"False {cpu_name()} (limited to AVX2), 1 thread\n", done.stderr


def test_the_commit_is_that_of_the_project_and_says_when_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    (tmp_path / "inside").mkdir()
    assert commit(tmp_path) is None, "no repository yet"
    git("init", "-q")
    assert commit(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == clean + "+changes"
    assert commit(tmp_path / "inside") is None, "installed inside another repository"


def test_the_driver_is_asked_for_a_device_by_its_unique_name(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    # under CUDA_VISIBLE_DEVICES=3 torch calls that device 0, and the driver's tool calls another one so
    asked = told("1410, 1980, 700.00")
    assert clocks(GPU) == {"now": 1410.0, "most": 1980.0, "power_limit_watts": 700.0}
    words = asked.read_text().split()
    assert f"--id=GPU-{UUID}" in words
    assert "--query-gpu=clocks.current.sm,clocks.max.sm,power.limit" in words
    assert "--format=csv,noheader,nounits" in words


def test_where_torch_does_not_tell_the_unique_name_the_number_is_taken(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = told("1410")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    for device, number in ((GPU, 1), (torch.device("cuda"), 5)):
        assert nvidia_smi(device, "clocks.sm") == [1410.0]
        assert f"--id={number}" in asked.read_text().split()


@pytest.mark.parametrize(
    "line,status,found",
    [
        ("1410, [N/A], 700.00", 0, [1410.0, None, 700.0]),
        ("[N/A], [Unknown Error], [Not Supported]", 0, [None, None, None]),
        ("No devices were found", 0, [None, None, None]),
        ("", 0, [None, None, None]),
        ("1410, 1980", 0, [None, None, None]),
        ("1410, 1980, 700.00", 6, [None, None, None]),
    ],
)
def test_what_the_driver_does_not_know_voids_nothing_else(
    line: str, status: int, found: list[float | None], told: Callable[..., Path]
) -> None:
    told(line, status)
    assert nvidia_smi(GPU, "clocks.current.sm", "clocks.max.sm", "power.limit") == found


def test_without_the_drivers_tool_nothing_is_known(told: Told) -> None:
    assert clocks(GPU) == {"now": None, "most": None, "power_limit_watts": None}


def test_the_lowest_and_the_highest_clock_after_work_are_kept(told: Told) -> None:
    told("345, 1980, 700.00")  # idle
    found = clocks(GPU)
    for now in ("[N/A]", "1755", "1410", "1980"):
        told(f"{now}, 1980, 700.00")
        found = clocks_after_work(found, GPU)
        if now == "[N/A]":
            assert (found["lowest_after_work"], found["highest_after_work"]) == (None, None)
    assert (found["lowest_after_work"], found["highest_after_work"]) == (1410.0, 1980.0)
    assert (found["now"], found["most"]) == (345.0, 1980.0), "those before any work stay"


@pytest.mark.gpu
def test_the_driver_knows_the_name_that_torch_gives() -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    (index,) = nvidia_smi(torch.device("cuda"), "index")
    assert index is not None
