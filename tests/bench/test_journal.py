"""A measurement that was stopped goes on: nothing is measured twice, and nothing of another machine is mixed in."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.journal import Journal, check_same, resume
from bench.roofline.roofline import Bandwidth, Roofline
from bench.timing import interleave
from bench.timing.interleave import run_scenario
from bench.workloads.scenarios import named
from tests.bench.suite.made_up import ENVIRONMENT
from tests.bench.timing.test_interleave import PROGRESS, SECONDS, TIME_BUDGETS, Made

COMMAND = "python -m bench roofline"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "new" / "r.json.partial", "roofline", COMMAND, ENVIRONMENT, {"seconds": 0.5})


def again(journal: Journal) -> Journal:
    """The same, as the next process finds it."""
    return resume(journal.path, "roofline", COMMAND)


def never() -> Any:
    pytest.fail("it was measured again")


def test_what_was_measured_is_known_to_the_next_process_to_the_last_bit(journal: Journal) -> None:
    found = {"seconds": [0.1, 1 / 3, 1e-300], "error": math.inf, "shape": (2, 3), "why": "“so”"}
    first = journal.once("rate", ["float32", 1], lambda: found)
    assert first == {**found, "shape": [2, 3]}
    later = again(journal)
    assert later.arguments == {"seconds": 0.5}
    assert later.once("rate", ["float32", 1], never) == first
    assert later.once("rate", ["float32", 2], lambda: 7.0) == 7.0
    assert again(journal).once("rate", ["float32", 2], never) == 7.0


def test_a_line_that_was_cut_off_is_measured_again_and_the_rest_stays(journal: Journal) -> None:
    for key in range(3):
        journal.once("rate", key, lambda key=key: float(key))  # type: ignore[misc]
    whole = journal.path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        journal.path.write_bytes(whole[:end])
        later = again(journal)
        assert later.once("rate", 2, lambda: 5.0) == 5.0
        assert [later.once("rate", key, never) for key in range(2)] == [0.0, 1.0]
        assert again(journal).once("rate", 2, never) == 5.0


def test_time_for_which_it_was_stopped_does_not_count(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    journal.start = now[0]
    now[0] += 40.0
    journal.once("rate", 1, lambda: 1.0)
    now[0] += 5000.0
    later = again(journal)
    now[0] += 2.0
    assert later.seconds == 42.0
    assert later.started.isoformat(timespec="seconds") == journal.started.isoformat(timespec="seconds")


def test_nothing_is_there_before_the_first_measurement_and_nothing_is_left_after_the_last(journal: Journal) -> None:
    assert journal.words == ""
    assert not journal.path.parent.exists()
    journal.once("rate", 1, lambda: 1.0)
    assert journal.words == f"continue with: {COMMAND} --resume {journal.path}"
    journal.remove()
    assert not journal.path.parent.exists()


def test_only_folders_that_were_made_for_it_are_removed(journal: Journal) -> None:
    journal.path.parent.mkdir()
    journal.once("rate", 1, lambda: 1.0)
    journal.remove()
    assert list(journal.path.parent.iterdir()) == []


def test_how_to_go_on_is_said_when_it_begins(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.once("rate", 1, lambda: 1.0)
    said = capsys.readouterr().err
    assert said == f"note: measurements are kept on disk; if this run is stopped, {journal.words}\n"
    later = again(journal)
    later.go_on()
    assert capsys.readouterr().err == f"note: continuing {journal.path}: 1 measurement\n"
    assert len(again(journal).resumed) == 1
    journal.once("rate", 2, lambda: 1.0)
    again(journal).go_on()
    assert capsys.readouterr().err == f"note: continuing {journal.path}: 2 measurements\n"


def test_one_that_is_in_the_way_is_replaced_and_that_is_said(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.path.parent.mkdir()
    journal.path.write_text("something\n")
    journal.once("rate", 1, lambda: 1.0)
    assert f"note: {journal.path}, of a stopped run, is replaced\n" in capsys.readouterr().err
    assert again(journal).once("rate", 1, never) == 1.0


def test_where_nothing_can_be_written_it_is_said_and_measuring_goes_on(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.path.parent.write_text("a file")
    assert [journal.once("rate", key, lambda: 1.0) for key in (1, 2)] == [1.0, 1.0]
    said = capsys.readouterr().err
    assert re.fullmatch(r"note: cannot write \S+ \(.*\): if this run is stopped, it cannot continue\n", said)
    assert journal.words == ""


@pytest.mark.parametrize(
    "change,says",
    [
        ({"cpu": "Another CPU"}, r"was measured on another machine \(.*Another CPU.*\): start again here"),
        (
            {"identity": {**ENVIRONMENT["identity"], "threads": 64}},
            r"was measured on another machine \(.*64.*\): start again here",
        ),
        ({"python": "3.99"}, r"was measured with other software \(python: .* -> 3\.99\): start again"),
        ({"commit": "f" * 40}, r"was measured with other software \(commit: .* -> f{40}\): start again"),
        ({"packages": {"torch": "9.9"}}, r"was measured with other software \(.*torch: .* -> 9\.9.*\): start again"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_machine_or_version_is_refused_in_one_line(change: dict[str, Any], says: str, journal: Journal) -> None:
    journal.once("rate", 1, lambda: 1.0)
    check_same(again(journal), ENVIRONMENT)
    with pytest.raises(ValueError, match=f"^--resume {re.escape(str(journal.path))}: {says}") as error:
        check_same(again(journal), {**ENVIRONMENT, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text,says",
    [
        (None, "cannot be read"),
        ("", "is no journal of a stopped roofline"),
        ("[1]\n", "is no journal of a stopped roofline"),
        ('{"kind": "suite"}\n', "is no journal of a stopped roofline"),
        ("\xff\n", "is no journal of a stopped roofline"),
        ("HEAD{\n", "is no journal of a stopped roofline"),
        ('HEAD{"what": 1}\n', "is no journal of a stopped roofline"),
    ],
)
def test_what_is_no_journal_is_refused_in_one_line(text: str | None, says: str, journal: Journal) -> None:
    journal.once("rate", 1, lambda: 1.0)
    head = journal.path.read_text().partition("\n")[0] + "\n"
    journal.path.unlink()
    if text is not None:
        journal.path.write_bytes(text.replace("HEAD", head).encode("latin-1"))
    with pytest.raises(ValueError, match=f"^--resume {re.escape(str(journal.path))}: {says}") as error:
        again(journal)
    assert "\n" not in str(error.value)


def test_another_version_of_the_file_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.journal.VERSION", 99)
    journal.once("rate", 1, lambda: 1.0)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of version 99, this program writes 2: start again without --resume"):
        again(journal)


def test_a_launch_of_a_scenario_is_kept_with_all_that_was_seen(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0

    class Crew:
        def __init__(self, jobs: Any) -> None:
            nonlocal begun
            begun += 1
            if begun == 2:
                raise KeyboardInterrupt
            self.names = [j.label for j in jobs]

        def __enter__(self) -> Any:
            return {name: Made(name, [], {**SECONDS}) for name in self.names}

        def __exit__(self, *_: object) -> None:
            pass

    def held(own: Journal) -> Any:
        names = ["reference", "full"]
        return run_scenario(
            named("smoke"), "training", names, torch.device("cpu"), TIME_BUDGETS, PROGRESS, launches=2, keep=own.once
        )

    monkeypatch.setattr(interleave, "crew", Crew)
    with pytest.raises(KeyboardInterrupt):
        held(journal)
    found = held(again(journal))
    assert begun == 3, "two launches in all, and the one that was stopped"
    assert found["full"]["training_step"].rounds == [2, 2]
    assert held(again(journal)) == found
    assert begun == 3


ROOFLINE = ("roofline", "--device", "cpu", "--workloads", "smoke")


class Device:
    """In place of this one: what is measured of it, and after how many products Ctrl-C is pressed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.most = 10**6

    def rate(self, roofline: Roofline, precision: str, product: Any, direction: str) -> float:
        if len(self.log) == self.most:
            raise KeyboardInterrupt
        self.log.append(f"{precision} {product.rows} {product.inner} {product.columns} {direction}")
        return 1e9 + len(self.log) / 3


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    device = Device()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Roofline, "time_product", lambda *arguments: device.rate(*arguments))
    monkeypatch.setattr(Roofline, "time_block", lambda roofline, block: Bandwidth(block, 1e9 / 3, 2e9))
    return device


def test_a_roofline_that_was_stopped_goes_on_where_it_was(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ROOFLINE, "--json", "whole.json"]) == 0
    number = len(device.log)
    device.log.clear()
    device.most = number // 2
    assert main([*ROOFLINE, "--seconds", "0.125", "--json", "a.json"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped; continue with: {COMMAND} --resume a.json.partial"
    device.most = 10**6
    assert main(["roofline", "--resume", "a.json.partial"]) == 0
    assert len(device.log) == len(set(device.log)) == number, "each once"
    result, whole = (json.loads(Path(name).read_text()) for name in ("a.json", "whole.json"))
    assert result["arguments"]["seconds"] == 0.125
    assert (len(result["resumed"]), len(whole["resumed"])) == (1, 0)
    products = [[rate["product"] for rate in one["roofline"]["rates"]] for one in (result, whole)]
    assert products[0] == products[1]
    assert sorted(path.name for path in Path().iterdir()) == ["a.json", "whole.json"]


def test_without_a_file_for_the_result_it_is_kept_in_runs(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device.most = 5
    assert main([*ROOFLINE]) == 130
    (left,) = Path("runs", "roofline").glob("*.partial")
    assert capsys.readouterr().err.splitlines()[-1].endswith(f" --resume {left}")
    device.most = 10**6
    assert main(["roofline", "--resume", str(left), "--json", "b.json"]) == 0
    assert Path("b.json").exists()
    assert not left.exists()


@pytest.mark.parametrize(
    "given,begun",
    [
        ("--seconds 1.0", "0.2"),
        ("--workloads mini", "smoke"),
        ("--threads 1", "no such option"),
        ("--device auto", "cpu"),
    ],
)
def test_other_options_than_it_was_begun_with_are_refused_in_one_line(
    given: str, begun: str, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.most = 5
    assert main([*ROOFLINE, "--json", "a.json"]) == 130
    capsys.readouterr()
    assert main(["roofline", "--resume", "a.json.partial", *given.split()]) == 2
    option = given.split()[0]
    assert capsys.readouterr().err == (
        f"error: --resume a.json.partial with {given}: it was begun with {begun}; leave {option} out, or start again "
        "without --resume\n"
    )


def test_options_that_cannot_be_read_are_one_line(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device.most = 5
    assert main([*ROOFLINE, "--json", "a.json"]) == 130
    left = Path("a.json.partial")
    for change in (('"seconds": 0.2', '"minutes": 0.2'), ('"workloads": ["smoke"], ', "")):
        left.write_text(left.read_text().replace(*change))
        capsys.readouterr()
        assert main(["roofline", "--resume", str(left)]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(
            r"error: --resume a\.json\.partial: is damaged \(.*\): start again without --resume\n", error
        )
