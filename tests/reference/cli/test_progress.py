"""Progress: a bar on a terminal, lines at intervals elsewhere, nothing on standard output."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reference.cli import progress
from reference.cli.progress import Stages, waiting, watched


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, kind: str = "xterm") -> Terminal:
    """Make standard error a terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)  # not in a fixture: pytest sets it between that and its test
    monkeypatch.setenv("TERM", kind)
    return terminal


def test_without_a_terminal_there_is_a_line_soon_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SOON", 1.0)
    seconds = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    assert list(watched("abcdefg", 7, "Reading")) == list("abcdefg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Reading: 1 of 7, 0:24 left\nReading: 4 of 7, 0:12 left\n"


def test_a_short_computation_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(3), 3)) == [0, 1, 2]
    with waiting("loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert list(watched(iter([0.5, 0.25]), 2, "Learning")) == [0.5, 0.25]
    assert "Learning" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("drawn", [True, False])
def test_an_error_while_it_computes_is_passed_on(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    if drawn:
        on_a_terminal(monkeypatch)
    with pytest.raises(ValueError, match="no more"):
        list(watched(broken(), 2))
    with pytest.raises(ValueError, match="no more"), waiting("loading"):
        raise ValueError("no more")


def test_a_long_step_is_said_while_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SOON", 0.01)
    said = ""
    with waiting("loading PyTorch"):
        while not said:  # from another thread
            time.sleep(0.01)
            said = capsys.readouterr().err
    assert said == "loading PyTorch (0 s)\n"


def test_on_a_terminal_it_is_said_at_once_and_a_note_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with waiting("loading PyTorch"):
        assert "loading PyTorch" in terminal.getvalue()
        print("note: this CPU is slow", file=sys.stderr)
    _, line, after = terminal.getvalue().partition("note: this CPU is slow\n")
    assert line
    assert "loading PyTorch" in after, "it is drawn again below the note"
    assert after.endswith("\x1b[2K"), "and wiped away"


def test_what_is_printed_meanwhile_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch)
    with waiting("loading PyTorch"):
        print("a result")
    with Stages(1) as stages:
        stages.stage("proving")
        print("another")
    assert capsys.readouterr().out == "a result\nanother\n"


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, "dumb")
    with Stages(1) as stages:
        stages.stage("proving")
    assert terminal.getvalue() == "1/1 proving (0 s)\n"


def test_stages_are_lines_with_the_time_left_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Stages(2) as stages:
        stages.stage("proving")
        now[0] += 60.0
        stages.within("proving it")
        now[0] += 2.0
        stages.stage("timing", left=75.0)
        now[0] += 5.0
        stages.within("timing, round 1", left=70.0)
        now[0] += 5.0
        stages.within("timing, round 2", left=65.0)
    assert capsys.readouterr().err == (
        "1/2 proving (0 s)\n2/2 timing (62 s, 1:15 left)\n2/2 timing, round 2 (72 s, 1:05 left)\n"
    )


def test_a_terminal_shows_where_in_a_stage_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Stages(2) as stages:
        stages.stage("proving")
        stages.within("timing, round 2", left=65.0)
    assert "1/2 timing, round 2, 1:05 left" in terminal.getvalue()


def test_the_time_left_of_even_stages_is_known_after_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Stages(4, even=True) as stages:
        for what in "abc":
            stages.stage(what)
            now[0] += 3.0
    assert capsys.readouterr().err == "1/4 a (0 s)\n2/4 b (3 s, 0:09 left)\n3/4 c (6 s, 0:06 left)\n"


@pytest.mark.parametrize("room", [20, 40, 56, 57, 80])
def test_a_line_that_is_too_long_loses_its_middle_and_keeps_the_number_at_its_end(room: int) -> None:
    line = "5/9 timing training steps of reference, huggingface, round 3"
    short = progress.fitted(line, room)
    assert len(short) == min(room, len(line))
    assert short.startswith("5/9")
    assert short.endswith("round 3")


def test_without_a_terminal_a_run_says_that_it_validates_and_that_its_first_step_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    @contextmanager
    def waiting(what: str) -> Iterator[None]:
        said.append(what)
        yield
        said.append(f"end of {what}")

    monkeypatch.setattr(progress, "waiting", waiting)
    with progress.Lines(0, 2) as lines:
        lines.recorded({"step": 0, "validation_loss": 4.0})
        assert said == ["validating", "end of validating", "the first step, compiling included"]
        lines.stepped(1)
        assert said[-1] == "end of the first step, compiling included"
        lines.recorded({"step": 2, "validation_loss": 3.0})
    assert len(said) == 4, "later validations and steps say nothing more"
    assert capsys.readouterr().out == "step 0/2  validation loss 4.0000\nstep 2/2  validation loss 3.0000\n"
