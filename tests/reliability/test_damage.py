"""A checkpoint with any changed bit is refused by file and reason, unparsed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reference.checkpoints import checkpoint as module
from reference.checkpoints.checkpoint import (
    CONFIG,
    FILES,
    MODEL,
    OPTIMIZER,
    RUN,
    TOKENIZER,
    CheckpointError,
    load,
    load_newest,
    open_path,
    save,
)
from reference.checkpoints.manifest import NAME as MANIFEST
from reference.checkpoints.manifest import Damaged, read_manifest, render
from tests.reliability.state import assert_equal, checkpoint_at


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with step 100 and 200, to be copied."""
    run = tmp_path_factory.mktemp("sound") / "run"
    for step in (100, 200):
        save(run, checkpoint_at(step))
    return run


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "run")


def refused(run: Path, reason: str) -> str:
    """Fail unless step 200 is refused for this reason and step 100 offered, whichever way it is opened."""
    newest, older = run / "step-000200", run / "step-000100"
    for opened in (load, open_path):
        with pytest.raises(CheckpointError) as error:
            opened(newest)
        message = str(error.value)
        assert "\n" not in message
        assert message.startswith(f"{newest}: {reason}"), message
        assert message.endswith(f"; {older} is complete, use that"), message
    for opened in (load_newest, open_path):
        checkpoint, reports = opened(run)
        assert_equal(checkpoint, checkpoint_at(100))
        assert len(reports) == 1
        assert reports[0].startswith(f"step-000200: {reason}"), reports
        assert reports[0].endswith("; using step-000100"), reports
    return message


def listed_anew(folder: Path) -> None:
    """Make the manifest tell the truth about files that lie."""
    files = {}
    for name in sorted(FILES):
        content = (folder / name).read_bytes()
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_bytes(render(files))


def test_the_manifest_lists_size_and_sha256_of_every_other_file(run: Path) -> None:
    folder = run / "step-000200"
    values = json.loads((folder / MANIFEST).read_text())
    assert values["version"] == 1
    assert values["files"].keys() == {path.name for path in folder.iterdir()} - {MANIFEST}
    for name, entry in values["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("bits", [0x01, 0x80])
def test_a_flipped_bit_is_found(run: Path, name: str, where: float, bits: int) -> None:
    path = run / "step-000200" / name
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= bits
    path.write_bytes(content)
    refused(run, f"{name}: SHA-256 differs (")


def test_a_flipped_bit_anywhere_in_the_manifest_is_blamed_on_the_manifest(run: Path) -> None:
    path = run / "step-000200" / MANIFEST
    content = path.read_bytes()
    reasons = set()
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                with pytest.raises(Damaged) as error:
                    read_manifest(path.parent)
                message = str(error.value)
                assert message.startswith(f"{MANIFEST}: "), f"byte {position}, bit {bit}: {message}"
                reasons.add(message.removeprefix(f"{MANIFEST}: ").split(";")[0])
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert {"is not JSON", "differs from its own SHA-256", "format version 3"} <= reasons, reasons


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / "step-000200" / name).unlink()
    refused(run, f"{name}: missing")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, -1], ids=["to nothing", "to one byte", "by one byte"])
def test_a_truncated_file_is_named(run: Path, name: str, left: int) -> None:
    path = run / "step-000200" / name
    content = path.read_bytes()
    path.write_bytes(content[:left])
    refused(run, f"{name}: has {len(content[:left]):,} bytes, {MANIFEST} says {len(content):,}")


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_truncated_manifest_is_named(run: Path, left: int) -> None:
    path = run / "step-000200" / MANIFEST
    path.write_bytes(path.read_bytes()[:left])
    refused(run, f"{MANIFEST}: ")


def test_a_file_that_grew_is_named(run: Path) -> None:
    with (run / "step-000200" / MODEL).open("ab") as file:
        file.write(b"\0")
    refused(run, f"{MODEL}: has ")


def test_what_is_not_a_file_is_named_and_not_waited_for(run: Path) -> None:
    (run / "step-000200" / RUN).unlink()
    os.mkfifo(run / "step-000200" / RUN)  # opening it would block for ever
    refused(run, f"{RUN}: is no file")


def test_an_unreadable_file_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def broken(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == run / "step-000200" / OPTIMIZER:
            raise OSError(5, "Input/output error", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    refused(run, f"{OPTIMIZER}: cannot be read (Input/output error)")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "generation_config.json", "vocab.json"])
def test_an_extra_file_is_named(run: Path, name: str) -> None:
    (run / "step-000200" / name).write_text("{}")
    refused(run, f"{name}: not listed in {MANIFEST}; move it elsewhere")


def test_hidden_files_that_systems_leave_do_no_harm(run: Path) -> None:
    for name in (".DS_Store", ".nfs000000000001"):
        (run / "step-000200" / name).touch()
    assert load(run / "step-000200").step == 200


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"version": 2}, "format version 2; this program reads 1"),
        ({"version": "1"}, "format version '1'; this program reads 1"),
        ({"version": None}, "format version None; this program reads 1"),
        ({"format": "another"}, "does not say that its format is 'paritygpt-checkpoint'"),
        ({"files": []}, "differs from its own SHA-256"),
        ({"files": {}}, "differs from its own SHA-256"),
        ({"new": 1}, "differs from its own SHA-256"),
    ],
)
def test_a_manifest_of_another_format_is_refused(run: Path, change: dict[str, Any], reason: str) -> None:
    path = run / "step-000200" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(run, f"{MANIFEST}: {reason}")


@pytest.mark.parametrize(
    "files, reason",
    [
        (
            {"../../secret": {"size": 1, "sha256": "00"}},
            "lists ../../secret; this program needs config.json, ",
        ),
        (dict.fromkeys(FILES), f"gives no size and SHA-256 for {FILES[0]}"),
        (
            {name: {"size": "1", "sha256": "00"} for name in FILES},
            f"gives no size and SHA-256 for {FILES[0]}",
        ),
        ({name: {"size": 1} for name in FILES}, f"gives no size and SHA-256 for {FILES[0]}"),
    ],
)
def test_a_manifest_that_is_sound_and_nonsense_is_refused(run: Path, files: dict[str, Any], reason: str) -> None:
    (run / "step-000200" / MANIFEST).write_bytes(render(files))
    refused(run, f"{MANIFEST}: {reason}")


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "[]", '{"format": NaN}', "\ud800"])
def test_a_manifest_that_is_no_manifest_is_refused(run: Path, content: str) -> None:
    (run / "step-000200" / MANIFEST).write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(run, f"{MANIFEST}: ")


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_parsed_before_every_hash_was_compared(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsing(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(module, "load_file", parsing)
    monkeypatch.setattr(module, "from_json", parsing)
    with pytest.raises(AssertionError, match="parsed"):
        load(run / "step-000200")  # the trap works
    with (run / "step-000200" / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(CheckpointError, match=f"{name}: has "):
        load(run / "step-000200")


def with_header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Rewrites the header of a safetensors file and leaves its data."""

    def lie(path: Path) -> None:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        new = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])

    return lie


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Rewrites a file."""

    def lie(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return lie


WTE, NORM, C_ATTN = (f"transformer.{name}.weight" for name in ("wte", "ln_f", "h.0.attn.c_attn"))
LIES: dict[str, Callable[[Path], None]] = {
    "a shape with as many numbers": with_header(lambda h: h[C_ATTN].update(shape=[24, 8])),
    "a shape with more numbers": with_header(lambda h: h[C_ATTN].update(shape=[8, 25])),
    "integers": with_header(lambda h: h[WTE].update(dtype="I32")),
    "an unknown type": with_header(lambda h: h[WTE].update(dtype="F31")),
    "offsets that overlap": with_header(lambda h: h[NORM].update(data_offsets=[0, 32])),
    "offsets beyond the end": with_header(lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 32])),
    "another name": with_header(lambda h: h.update(extra=h.pop(NORM))),
    "a tensor too few": lambda path: save_file({k: t for k, t in load_file(path).items() if k != NORM}, path),
    "a header longer than the file": with_bytes(lambda content: b"\xff" * 7 + b"\x0f" + content[8:]),
    "a header that is no JSON": with_bytes(lambda content: content.replace(b'"dtype"', b"'dtype'")),
    "no safetensors at all": with_bytes(lambda content: pickle.dumps([1, 2, 3])),
}


@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie_under_a_right_hash_are_refused(run: Path, lie: str) -> None:
    folder = run / "step-000200"
    LIES[lie](folder / MODEL)
    listed_anew(folder)
    refused(run, f"{MODEL}: ")


@pytest.mark.parametrize("lie", ["a shape with more numbers", "no safetensors at all"])
def test_an_optimizer_that_lies_under_a_right_hash_is_refused(run: Path, lie: str) -> None:
    folder = run / "step-000200"
    shutil.copyfile(folder / MODEL, folder / OPTIMIZER)
    LIES[lie](folder / OPTIMIZER)
    listed_anew(folder)
    refused(run, f"{OPTIMIZER}: ")


@pytest.mark.parametrize(
    "name, content, reason",
    [
        (CONFIG, "{", "Expecting property name"),
        (CONFIG, "[]", "is JSON, but no object"),
        (CONFIG, '{"n_layer": 1}', "Hugging Face config: 'n_positions' is missing"),
        (TOKENIZER, '"char"', "is JSON, but no object"),
        (RUN, "{}", "the step is None, not a whole number"),
        (RUN, '{"step": -3}', "the step is -3, not a whole number"),
        (RUN, '{"step": 100}', "is of step 100, which is not what the folder is named"),
    ],
)
def test_json_that_lies_under_a_right_hash_is_refused(run: Path, name: str, content: str, reason: str) -> None:
    folder = run / "step-000200"
    (folder / name).write_text(content)
    listed_anew(folder)
    refused(run, f"{name}: {reason}")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["optimizer.pt", "pytorch_model.bin", *FILES])
def test_a_pickle_is_never_opened(run: Path, tmp_path: Path, name: str) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(bomb)
    (tmp_path / "exploded").unlink()  # the bomb is live
    folder = run / "step-000200"
    (folder / name).write_bytes(bomb)
    if name in FILES:
        listed_anew(folder)
    refused(run, f"{name}: ")
    assert not (tmp_path / "exploded").exists()


def test_when_all_are_damaged_each_is_named(run: Path) -> None:
    (run / "step-000100" / MODEL).write_bytes(b"")
    (run / "step-000200" / MANIFEST).write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        load_newest(run)
    assert str(error.value).startswith(
        f"{run}: no complete checkpoint in this run: step-000200: {MANIFEST}: is not JSON; "
        f"step-000100: {MODEL}: has 0 bytes"
    )
    with pytest.raises(CheckpointError) as error:
        load(run / "step-000200")
    assert str(error.value) == f"{run / 'step-000200'}: {MANIFEST}: is not JSON"  # nothing to offer


def test_several_damaged_ones_are_reported_each_on_a_line(run: Path) -> None:
    save(run, checkpoint_at(300), keep=3)
    for step in (200, 300):
        (run / f"step-{step:06d}" / RUN).unlink()
    checkpoint, reports = load_newest(run)
    assert checkpoint.step == 100
    assert reports == [f"step-000{step}: {RUN}: missing; using step-000100" for step in (300, 200)]


def test_a_damaged_one_is_replaced_when_its_step_comes_again(run: Path) -> None:
    (run / "step-000200" / MODEL).write_bytes(b"")
    save(run, checkpoint_at(200))
    assert_equal(load(run / "step-000200"), checkpoint_at(200))
    assert sorted(path.name for path in run.iterdir()) == ["step-000100", "step-000200"]


def test_nan_and_infinity_are_weights_like_others(tmp_path: Path) -> None:
    written = checkpoint_at(1)
    written.model["ln_f.weight"].fill_(torch.nan)
    assert_equal(load(save(tmp_path, written)), written)
