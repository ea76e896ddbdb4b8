"""What is recorded beside every number."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.environment import (
    clocks,
    clocks_after_work,
    commit,
    computes_bfloat16,
    environment,
    nvidia_smi,
    package_version,
)

# as torch writes it, and as the driver's tool does after its "GPU-"
UUID = "5f3c9b52-7d53-8a1e-0f1c-0123456789ab"
GPU = torch.device("cuda", 1)

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
    assert found["device"] == found["cpu"]
    assert found["cores"]["logical"] >= 1
    assert found["device_memory"] > 10**8


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("no-such-package") is None


@pytest.mark.parametrize(
    "capabilities,answer",
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({}, None),
    ],
)
def test_a_cpu_without_bfloat16_instructions_is_known(
    capabilities: dict[str, bool], answer: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_bfloat16(torch.device("cpu")) is answer


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
    assert commit(tmp_path / "inside") is None, "installed inside somebody else's repository"


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
