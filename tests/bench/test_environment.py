"""What is recorded beside every number."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from bench.environment import commit, computes_bfloat16, environment, package_version


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
