"""A planted mistake of a data loader is found and named, and a right loader has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.batches.audit import Audit, audit
from bench.batches.report import report
from bench.user_code.load_function import load_function
from tests.bench.batches.mutants import EPOCHS, MISTAKES, RANDOM, RIGHT, ROOT


def audit_of(source: str, folder: Path) -> Audit:
    """The audit of a file with this source."""
    file = folder / "loader.py"
    file.write_text(source)
    return audit(load_function(f"{file}:build_batches", "build_batches", "batches"))


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loader_has_no_fault(name: str, tmp_path: Path) -> None:
    found = audit_of(RIGHT[name], tmp_path)
    assert found.faults == []
    assert "Right batches: every target is the next token, " in report(found).text()
    assert found.kind == ("random" if name.startswith("random") else "epochs")
    assert found.batches == (0 if name.startswith("random") else 12)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_no_other(name: str, tmp_path: Path) -> None:
    source, old, new, words = MISTAKES[name]
    assert source.count(old) == 1
    found = audit_of(source.replace(old, new), tmp_path)
    assert [words in fault.what for fault in found.faults] == [True], found.faults


SEEDED = RANDOM.replace("block_size):", "block_size, seed):\n    generator = torch.Generator().manual_seed(seed)", 1)
SEEDED = SEEDED.replace("(batch_size,)", "(batch_size,), generator=generator")


@pytest.mark.parametrize(
    "seeding,faults",
    [
        ("torch.Generator().manual_seed(seed)", []),
        ("torch.Generator(); generator.seed()", ["the same seed gives other batches"]),
        ("torch.Generator().manual_seed(1)", ["the seed changes nothing"]),
    ],
)
def test_the_batches_come_from_the_seed_that_is_given(seeding: str, faults: list[str], tmp_path: Path) -> None:
    source = SEEDED.replace("torch.Generator().manual_seed(seed)", seeding)
    assert [fault.what for fault in audit_of(source, tmp_path).faults] == faults


def test_a_loader_that_needs_a_long_text_is_not_judged_by_a_short_one(tmp_path: Path) -> None:
    source = RANDOM.replace("    def get_batch", "    assert len(tokens) > 100\n\n    def get_batch", 1)
    found = audit_of(source, tmp_path)
    assert found.right
    assert found.notes[0].startswith("starts of windows were not tested: batches: build_batches raised AssertionError")


def test_what_a_loader_does_not_take_is_said_not_to_be_tested(tmp_path: Path) -> None:
    notes = audit_of(RANDOM, tmp_path).notes
    assert [note.partition(":")[0] for note in notes] == [
        "the loader takes no rank and world_size",
        "the loader takes no start",
    ]


def test_epochs_of_the_same_order_are_a_remark(tmp_path: Path) -> None:
    found = audit_of(EPOCHS.replace("1000 * seed + epoch", "seed"), tmp_path)
    assert (found.faults, found.notes) == ([], ["every epoch has the same order"])


REFUSED = {
    "return 5": "batches: build_batches returned int: return an iterator, or a function that returns the next batch",
    "return [tokens]": "batches: batch 0 is a Tensor: give inputs and targets, (B, T) each",
    "return [(tokens, tokens)]": "batches: batch 0: inputs have shape (293,), int64: give integers of shape (B, T)",
    "return [(tokens.view(1, -1), tokens[:8].view(1, -1))]": (
        "batches: batch 0: inputs and targets have shapes (1, 293) and (1, 8): give the same"
    ),
    "return [(tokens.view(1, -1) + 1, tokens.view(1, -1))]": (
        "batches: batch 0: inputs are no tokens of the text: use the tokens that are given"
    ),
    "return missing": "batches: build_batches raised NameError: name 'missing' is not defined (loader.py, line 2)",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_is_no_loader_is_refused_in_one_line(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loader.py").write_text(f"def build_batches(tokens, batch_size, block_size):\n    {body}\n")
    assert main(["compare", "--batches", "loader.py", "--json", "r.json"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {REFUSED[body]}"
    assert not Path("r.json").exists()


def test_the_command_says_what_is_wrong_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--batches", str(ROOT / "examples" / "my_batches.py"), "--json", "right.json"]) == 0
    assert "Right batches" in capsys.readouterr().out
    Path("wrong.py").write_text(EPOCHS.replace("step = start", "step = 0"))
    assert main(["compare", "--batches", "wrong.py", "--json", "wrong.json"]) == 1
    out = capsys.readouterr().out
    assert "Wrong batches: one fault." in out
    assert "a resumed run begins at the first batch again" in out
    right, wrong = (json.loads(Path(name).read_text()) for name in ("right.json", "wrong.json"))
    assert (right["right"], right["faults"], right["batches_per_epoch"]) == (True, [], 12)
    assert (wrong["right"], len(wrong["faults"])) == (False, 1)
    assert wrong["takes"] == ["rank", "seed", "start", "world_size"]
