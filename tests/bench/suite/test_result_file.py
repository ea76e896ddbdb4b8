"""The suite's result file is written atomically, and a wrong one is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.suite import result_file
from bench.suite.result_file import KEYS, VERSION, path_for, read, save, slug
from tests.bench.suite.made_up import ENVIRONMENT, result


def test_a_result_is_read_as_it_was_written_with_unknown_numbers_null(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "result.json"
    save(result(seconds=float("nan")), path)
    assert read(path) == result(seconds=None)
    assert read(path)["cases"][0]["mfu"]["data_sheet"] is None, "n/a, not 0"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    save(result(), path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ValueError, match=r"^cannot write '.*result.json': No space left on device$"):
        save(result(seconds=1.0), path)
    assert read(path)["seconds"] == 100.0
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_value_that_json_cannot_hold_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(TypeError):
        save(result(cases=[object()]), path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 100, 2000, -2])
def test_a_file_that_is_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    save(result(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"result.json: is (cut short or damaged|empty), not a result ") as e:
        read(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content,message",
    [
        (
            {"version": VERSION + 1},
            rf"is of version {VERSION + 1}, this program reads {VERSION}: measure again by nox -s bench$",
        ),
        ({"version": 4}, rf"is of version 4, this program reads {VERSION}: measure again by nox -s bench$"),
        (
            {"kind": "compare", "version": 4},
            rf"is of version 4, this program reads {VERSION}: measure again by nox -s compare$",
        ),
        ({"version": None}, rf"is of version None, this program reads {VERSION}"),
        (
            {"kind": "roofline"},
            r"is no result of the suite or of compare \(kind 'roofline'\): make one by nox -s bench ",
        ),
    ],
)
def test_a_file_of_another_kind_or_version_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result(**content)))
    with pytest.raises(ValueError, match=message):
        read(path)


def test_json_without_an_object_and_a_result_without_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"is no result of the suite or of compare \(kind None\)"):
        read(path)
    half = result()
    del half["ablation"], half["cases"]
    path.write_text(json.dumps(half))
    with pytest.raises(ValueError, match=r"result.json: lacks ablation, cases: measure again"):
        read(path)
    with pytest.raises(ValueError, match=r"none.json: cannot be read \(No such file or directory\)"):
        read(tmp_path / "none.json")


def test_a_run_writes_exactly_the_keys() -> None:
    assert result().keys() == KEYS


def test_a_device_has_one_file_and_an_incomplete_run_does_not_replace_it() -> None:
    assert slug(ENVIRONMENT) == "cpu-some-cpu-avx2-2-threads"
    h100 = {"name": "NVIDIA H100 80GB HBM3", "instruction_sets": [], "limits": {}, "threads": None}
    assert slug({**ENVIRONMENT, "device_kind": "cuda", "identity": h100}) == "cuda-nvidia-h100-80gb-hbm3"
    assert path_for(result(), whole=True) == result_file.HOME / "cpu-some-cpu-avx2-2-threads.json"
    partly = path_for(result(), whole=False)
    assert partly == Path("runs/bench/cpu-some-cpu-avx2-2-threads-20260102030405.json")


def test_cpus_of_one_name_with_other_instruction_sets_or_limits_have_their_own_files() -> None:
    def with_sets(*sets: str, **limits: str) -> str:
        kind = {"name": "AMD EPYC", "instruction_sets": list(sets), "limits": limits, "threads": 2}
        return slug({**ENVIRONMENT, "identity": kind})

    zen3, zen4 = with_sets("AVX2"), with_sets("AVX2", "AVX-512", "AVX-512 bfloat16")
    assert (zen3, zen4) == ("cpu-amd-epyc-avx2-2-threads", "cpu-amd-epyc-avx-512-bfloat16-2-threads")
    assert with_sets("AVX2", ATEN_CPU_CAPABILITY="avx2") == "cpu-amd-epyc-limited-to-avx2-2-threads"


@pytest.mark.parametrize("path", sorted(result_file.HOME.glob("*.json")), ids=lambda path: path.name)
def test_every_committed_result_can_be_read_and_is_named_after_its_device(path: Path) -> None:
    assert path.stem == slug(read(path)["environment"])
